"""Building blocks of every model here: attention, transformer stacks, positions."""
