"""From text to tokens: mask schedules, guidance, iterative parallel decoding, stories."""
