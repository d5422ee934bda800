"""A third-party plugin that works."""
