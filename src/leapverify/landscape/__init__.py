"""The loss around a trajectory."""
