"""What the records of a bench say."""
