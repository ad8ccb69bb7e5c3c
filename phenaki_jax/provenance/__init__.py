"""Where a video comes from: what may be asked for, and the marks that say that it was generated."""
