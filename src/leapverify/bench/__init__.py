"""The bench: every predictor on recorded studies, verified, with its cost and the persistence of its gain."""
