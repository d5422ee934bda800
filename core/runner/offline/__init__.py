"""Models that are judged where this package does not run: pixels for them, and their results.

``runner offline`` writes what a program on another machine reads, and scores what it writes.
"""
