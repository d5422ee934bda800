"""What a process tells the one that watches it."""
