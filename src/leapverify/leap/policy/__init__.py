"""When to leap, with which predictor, and how far."""
