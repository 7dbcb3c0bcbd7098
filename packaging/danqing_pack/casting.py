"""From one element type to another: rounding to the nearest even, NaN and infinities kept, overflow counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import BF16, is_floating

_CHUNK = 1 << 16
"""Elements per step: source, result and scratch stay in the second-level cache."""

_INFINITY = {np.dtype("<f2"): np.uint16(0x7C00), BF16: np.uint16(0x7F80)}
"""Bits of infinity. A larger magnitude is NaN, a smaller one is finite."""


def cast_into(out: NDArray[Any], source: NDArray[Any]) -> int:
    """Cast ``source`` into ``out``, both one-dimensional and of one length; how many finite values became infinite.

    Where the new type has no infinity (fp8 e4m3) the values that became NaN are counted.
    """
    may_overflow = is_floating(out.dtype) and not np.can_cast(source.dtype, out.dtype, "safe")
    to_half = _ToHalf() if source.dtype == np.float32 and out.dtype == np.float16 else None
    lost = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(out), _CHUNK):
            part, values = out[start:start + _CHUNK], source[start:start + _CHUNK]
            if to_half is not None and to_half.cast(part, values):
                continue
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


class _ToHalf:
    """float32 to float16 in vector instructions, at twice the speed of NumPy, which goes value by value.

    With m = |x| and 2^e its power of two, or 2^-14 if that is larger, m + 2^(e + 13) has the last bit of a half's
    significand as its own last bit, so that this one addition rounds as a half is rounded, subnormal ones included. The
    low bits of the sum are then the significand with its leading bit, and the exponent, shifted and added, does the
    rest. 0x800 corrects the bias of the exponent, which is 2^10 times -126 in 16 bits.
    """

    _SMALLEST = np.full(_CHUNK, 0x38800000, np.uint32)
    """2^-14 in an array, since NumPy takes a maximum with a scalar value by value."""

    def __init__(self) -> None:
        self._magnitude, self._power, self._sum = (np.empty(_CHUNK, np.uint32) for _ in range(3))

    def cast(self, out: NDArray[Any], values: NDArray[Any]) -> bool:
        """Cast a chunk, if every value stays finite; else leave it alone and return False."""
        count, bits, result = len(values), values.view(np.uint32), out.view(np.uint16)
        magnitude, power, total = self._magnitude[:count], self._power[:count], self._sum[:count]
        np.bitwise_and(bits, np.uint32(0x7FFFFFFF), out=magnitude)
        if magnitude.max(initial=0) >= 0x477FF000:      # 65520, the first number that rounds to infinity
            return False
        np.bitwise_and(magnitude, np.uint32(0x7F800000), out=power)
        np.maximum(power, self._SMALLEST[:count], out=power)
        np.add(power, np.uint32((13 << 23) + 0x800), out=power)
        np.add(magnitude.view(np.float32), power.view(np.float32), out=total.view(np.float32))
        np.right_shift(total, np.uint32(13), out=power)
        np.add(total, power, out=total)
        np.right_shift(bits, np.uint32(16), out=power)
        np.bitwise_and(power, np.uint32(0x8000), out=power)
        np.add(total, power, out=total)
        np.copyto(result, total, casting="unsafe")
        return True
