"""What stands between files that others wrote and the rest: limits, bounded readers, inert words."""
