"""Run Vision Runner recipes with PyTorch, on the processor and on NVIDIA GPUs.

``plugin`` registers the entries. A package that adds another accelerator builds on ``traits`` and
``device``: it describes its device in one row of traits and opens it with ``open_device``.
"""
