"""How files lie: each layout opens a place to a neutral form and writes one from it. One line per layout."""

from __future__ import annotations

from .diffusers import DIFFUSERS
from .easynlp import EASYNLP
from .layout import Layout
from .single_file import SINGLE_FILE

LAYOUTS: tuple[Layout, ...] = (EASYNLP, DIFFUSERS, SINGLE_FILE)

__all__ = ["LAYOUTS", "Layout"]
