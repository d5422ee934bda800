"""Runs in jobs of SLURM."""
