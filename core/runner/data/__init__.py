"""From image files to batches of pixels, the same for every framework."""
