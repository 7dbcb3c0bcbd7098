"""What checkpoints are: one module and one line per family."""

from __future__ import annotations

from ..family import Family
from .chinese_ldm import CHINESE_LDM
from .pai_diffusion import PAI_DIFFUSION
from .painter import PAINTER

FAMILIES: tuple[Family, ...] = (PAINTER, CHINESE_LDM, PAI_DIFFUSION)

__all__ = ["FAMILIES"]
