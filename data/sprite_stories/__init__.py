"""A generated world whose captions are facts about its pixels: the data set of the quickstart and of the tests."""
