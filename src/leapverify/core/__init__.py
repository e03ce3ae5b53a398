"""Weights as lists of tensors, several ranks, statistics, and looking without a trace."""
