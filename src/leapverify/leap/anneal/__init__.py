"""The weights after a decay, predicted at a constant learning rate."""
