"""Networks: arrays in, arrays out; no files, no run configuration."""
