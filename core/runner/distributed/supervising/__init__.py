"""Watching processes, and starting them again."""
