"""Command lines of programs that a recipe replaces."""
