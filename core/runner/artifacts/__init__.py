"""Exported models: written, converted, checked, and used again."""
