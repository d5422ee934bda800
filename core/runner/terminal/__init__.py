"""Standard output, and text fit to be shown on it."""
