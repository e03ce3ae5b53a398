"""What a run is, and what follows from it."""
