"""Huawei Ascend: NPUs for PyTorch, and models compiled for offline inference."""
