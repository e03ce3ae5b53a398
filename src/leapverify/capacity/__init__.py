"""What a study costs on a machine: memory, time, and whether it fits."""
