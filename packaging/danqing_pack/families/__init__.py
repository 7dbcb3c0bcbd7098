"""What checkpoints are: one module and one line per family."""

from __future__ import annotations

from ..family import Family
from .painter import PAINTER

FAMILIES: tuple[Family, ...] = (PAINTER,)

__all__ = ["FAMILIES"]
