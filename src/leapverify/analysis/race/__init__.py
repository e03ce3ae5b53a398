"""What the records of a race say."""
