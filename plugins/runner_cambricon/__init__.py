"""Cambricon MLUs for PyTorch."""
