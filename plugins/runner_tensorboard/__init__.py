"""TensorBoard curves of a run, written by tensorboardX."""
