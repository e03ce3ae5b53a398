"""Annealing: averages of past weights in place of a decay of the learning rate, verified on held-out data."""
