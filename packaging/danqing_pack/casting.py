"""From one element type to another: rounding to the nearest even, NaN and infinities kept, overflow counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import BF16, is_floating

_CHUNK = 1 << 18
"""Elements per step: source, result and scratch stay in the second-level cache."""

_INFINITY = {np.dtype("<f2"): np.uint16(0x7C00), BF16: np.uint16(0x7F80)}
"""Bits of infinity. A larger magnitude is NaN, a smaller one is finite."""


def cast_into(out: NDArray[Any], source: NDArray[Any]) -> int:
    """Cast ``source`` into ``out``, both one-dimensional and of one length; how many finite values became infinite.

    Where the new type has no infinity (fp8 e4m3) the values that became NaN are counted.
    """
    may_overflow = is_floating(out.dtype) and not np.can_cast(source.dtype, out.dtype, "safe")
    lost = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(out), _CHUNK):
            part, values = out[start:start + _CHUNK], source[start:start + _CHUNK]
            np.copyto(part, values, casting="unsafe")
            if may_overflow and not _all_finite(part):
                lost += int(np.count_nonzero(~np.isfinite(part) & np.isfinite(values)))
    return lost


def _all_finite(part: NDArray[Any]) -> bool:
    """On the bits where that is the faster way: NumPy widens every half before it looks at it."""
    infinity = _INFINITY.get(part.dtype)
    if infinity is None:
        return bool(np.isfinite(part).all())
    return bool((part.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) < infinity)
