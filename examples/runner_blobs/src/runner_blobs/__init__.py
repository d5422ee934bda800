"""An example plugin package for Vision Runner."""
