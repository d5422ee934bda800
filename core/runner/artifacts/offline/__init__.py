"""Evaluation of exported models on other machines, by files."""
