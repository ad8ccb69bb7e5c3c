"""Training's own step, compiled for hardware that is not here: what it needs, and how long it should take."""
