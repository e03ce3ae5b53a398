"""A training run as snapshots over time."""
