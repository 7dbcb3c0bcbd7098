"""How files lie: each layout opens a place to a neutral form and writes one from it. One line per layout."""

from __future__ import annotations

from .diffusers import DIFFUSERS
from .easynlp import EASYNLP
from .layout import Layout

LAYOUTS: tuple[Layout, ...] = (EASYNLP, DIFFUSERS)

__all__ = ["LAYOUTS", "Layout"]
