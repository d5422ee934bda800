"""Importers of made-up programs."""
