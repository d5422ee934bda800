"""A plugin whose helper needs something that is not there."""

from __future__ import annotations

from . import helper

__all__ = ["helper"]
