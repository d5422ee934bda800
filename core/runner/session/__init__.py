"""A plan with its device, data and engine open, and the evaluation that needs no more."""
