"""The image files of a split, listed once."""
