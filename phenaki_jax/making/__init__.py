"""The generating commands: from what a user asks for to files that say how they were made."""
