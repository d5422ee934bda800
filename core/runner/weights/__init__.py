"""Weights from files of any kind, under the names of the model."""
