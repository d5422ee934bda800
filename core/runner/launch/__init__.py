"""Several devices: starting one process for each, and watching over them.

``start`` begins with a plan and ends with a result, in as many ``attempts`` as the recipe allows;
``watch`` follows one attempt. ``begin``, ``status`` and ``progress`` are how the processes tell
what happens to them.
"""
