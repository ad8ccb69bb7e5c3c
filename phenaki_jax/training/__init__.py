"""Training: one loop, and the stages as pure functions of arrays."""
