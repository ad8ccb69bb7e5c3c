"""A trained run as one folder that is a whole model: weights, config, vocabulary, card, and each file's SHA-256."""
