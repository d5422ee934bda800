"""A run: training, checkpoints, resuming, and the result."""
