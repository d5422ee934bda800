"""Run Vision Runner recipes with MindSpore, on the processor, on GPUs and on Ascend NPUs.

``plugin`` registers the entries. What one kind of device does differently is a row of ``traits``.
"""
