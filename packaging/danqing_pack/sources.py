"""Where a tensor's values come from: a view of a file or an array, or something derived from other sources.

The kinds of source are closed under cutting, transposing and reshaping: of a view these are views again, and of a
derived source they are handed down to what it is derived from. Nothing is read before ``fill`` or ``array``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .casting import cast_into
from .dtypes import DType
from .errors import RequestError
from .mapped_files import MappedFile
from .transposing import copy_into

Array = NDArray[Any]
Shape = tuple[int, ...]
OnOverflow = Callable[[int], None]

_CAST_AT_ONCE = 1 << 20
"""Bytes that are read before they are cast: little enough to stay in the cache in between."""

_WHOLE_LINES = 64
"""Rows of a piece come in multiples of this, so that a transposed matrix is read in whole cache lines."""


@dataclass(frozen=True)
class Extent:
    """A stretch of a file, in bytes."""

    path: Path
    offset: int
    nbytes: int


class Source(ABC):
    """Values of one type and shape, to be written into an array as a whole or in stretches of the first axis."""

    __slots__ = ("dtype", "nbytes", "shape", "size")

    def __init__(self, dtype: DType, shape: Shape) -> None:
        self.dtype, self.shape = dtype, shape
        self.size = prod(shape)
        self.nbytes = self.size * dtype.itemsize

    @abstractmethod
    def fill(self, out: Array) -> None:
        """Write all values into an array of this shape and type, whatever its strides."""

    @abstractmethod
    def rows(self, low: int, high: int) -> Source:
        """A stretch of the first axis."""

    @abstractmethod
    def transposed(self) -> Source:
        """The axes in reverse order."""

    @abstractmethod
    def reshaped(self, shape: Shape) -> Source:
        """The same values, row-major, under another shape of the same size."""

    @abstractmethod
    def release(self) -> None:
        """Give back resident memory that reading has mapped."""

    def extent(self) -> Extent | None:
        """Where the values lie in one file, in row-major order."""
        return None

    def settled(self) -> Source:
        """The same source, with whatever cannot be made in pieces made once and held."""
        return self

    def array(self) -> Array:
        """All values, read-only."""
        out = np.empty(self.shape, self.dtype)
        self.fill(out)
        out.flags.writeable = False
        return out

    def pieces(self, limit: int) -> Iterator[Source]:
        """Sources of at most ``limit`` bytes, or one element, whose values follow one another in row-major order."""
        if self.nbytes <= limit or not self.shape:
            if self.size:
                yield self
            return
        whole = self.settled()
        row = whole.nbytes // whole.shape[0]
        if row > limit and len(whole.shape) > 1:
            for index in range(whole.shape[0]):
                yield from whole.rows(index, index + 1).reshaped(whole.shape[1:]).pieces(limit)
            return
        step = max(1, limit // row)
        if step > _WHOLE_LINES:
            step -= step % _WHOLE_LINES
        for low in range(0, whole.shape[0], step):
            yield whole.rows(low, min(low + step, whole.shape[0]))


class View(Source):
    """A NumPy view, of any strides, of an array in memory or of a mapped file."""

    __slots__ = ("_file", "_view")

    def __init__(self, view: Array, file: MappedFile | None = None) -> None:
        super().__init__(view.dtype, view.shape)
        self._view, self._file = view, file

    def extent(self) -> Extent | None:
        if self._file is None or not self.size or not self._view.flags.c_contiguous:
            return None
        return Extent(self._file.path, self._file.offset_of(self._view), self.nbytes)

    def array(self) -> Array:
        return self._view

    def fill(self, out: Array) -> None:
        if self._file is not None and self.size and self._view.flags.c_contiguous and out.flags.c_contiguous:
            self._file.read_into(out.reshape(-1).view(np.uint8), self._file.offset_of(self._view))
        else:
            copy_into(out, self._view)

    def release(self) -> None:
        if self._file is not None:
            self._file.forget()

    def rows(self, low: int, high: int) -> Source:
        return View(self._view[low:high], self._file)

    def transposed(self) -> Source:
        return View(self._view.T, self._file)

    def reshaped(self, shape: Shape) -> Source:
        # Any other reshape would copy, and NumPy would do that here and now, without a word.
        if self._view.flags.c_contiguous or _without_units(shape) == _without_units(self.shape):
            return View(self._view.reshape(shape), self._file)
        return Derived(self.dtype, shape, lambda: self._view.reshape(shape))


class Cast(Source):
    """Values of another source under another type."""

    __slots__ = ("_on_overflow", "_source")

    def __init__(self, source: Source, dtype: DType, on_overflow: OnOverflow | None) -> None:
        super().__init__(dtype, source.shape)
        self._source, self._on_overflow = source, on_overflow

    def fill(self, out: Array) -> None:
        if not out.flags.c_contiguous:
            np.copyto(out, self.array())
            return
        flat, done = out.reshape(-1), 0
        for piece in self._source.pieces(_CAST_AT_ONCE):
            values = np.empty(piece.shape, piece.dtype)
            piece.fill(values)
            lost = cast_into(flat[done:done + piece.size], values.reshape(-1))
            done += piece.size
            if lost:
                self._report(lost)

    def _report(self, lost: int) -> None:
        if self._on_overflow is None:
            raise RequestError(f"{lost} values are too large for {self.dtype.name}; choose bf16 or fp32.", count=lost)
        self._on_overflow(lost)

    def release(self) -> None:
        self._source.release()

    def rows(self, low: int, high: int) -> Source:
        return self._of(self._source.rows(low, high))

    def transposed(self) -> Source:
        return self._of(self._source.transposed())

    def reshaped(self, shape: Shape) -> Source:
        return self._of(self._source.reshaped(shape))

    def settled(self) -> Source:
        return self._of(self._source.settled())

    def _of(self, source: Source) -> Source:
        return Cast(source, self.dtype, self._on_overflow)


class Joined(Source):
    """Sources side by side along one axis, equal in their type and their other axes."""

    __slots__ = ("_axis", "_parts")

    def __init__(self, parts: tuple[Source, ...], axis: int = 0) -> None:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        super().__init__(parts[0].dtype, tuple(shape))
        self._parts, self._axis = parts, axis

    def fill(self, out: Array) -> None:
        start = 0
        for part in self._parts:
            stop = start + part.shape[self._axis]
            part.fill(out[(slice(None),) * self._axis + (slice(start, stop),)])
            start = stop

    def release(self) -> None:
        for part in self._parts:
            part.release()

    def rows(self, low: int, high: int) -> Source:
        if self._axis:
            return Joined(tuple(part.rows(low, high) for part in self._parts), self._axis)
        inside, start = [], 0
        for part in self._parts:
            stop = start + part.shape[0]
            if max(low, start) < min(high, stop):
                inside.append(part.rows(max(low, start) - start, min(high, stop) - start))
            start = stop
        if not inside:
            return self._parts[0].rows(0, 0)
        return inside[0] if len(inside) == 1 else Joined(tuple(inside))

    def transposed(self) -> Source:
        return Joined(tuple(part.transposed() for part in self._parts), len(self.shape) - 1 - self._axis)

    def reshaped(self, shape: Shape) -> Source:
        if self._axis == 0 and shape and shape[0] == self.shape[0]:
            return Joined(tuple(part.reshaped((part.shape[0], *shape[1:])) for part in self._parts))
        return Derived(self.dtype, shape, lambda: self.array().reshape(shape))

    def settled(self) -> Source:
        return Joined(tuple(part.settled() for part in self._parts), self._axis)


class Derived(Source):
    """Values that a function returns as a whole."""

    __slots__ = ("_make",)

    def __init__(self, dtype: DType, shape: Shape, make: Callable[[], Array]) -> None:
        super().__init__(dtype, shape)
        self._make = make

    def array(self) -> Array:
        made = self._make()
        if made.dtype != self.dtype or made.shape != self.shape:
            raise ValueError(f"{made.dtype.name} {list(made.shape)} was made for {self.dtype.name} {list(self.shape)}")
        view = made.view()
        view.flags.writeable = False
        return view

    def fill(self, out: Array) -> None:
        copy_into(out, self.array())

    def release(self) -> None:
        """What the function reads is its own affair."""

    def rows(self, low: int, high: int) -> Source:
        return Derived(self.dtype, (high - low, *self.shape[1:]), lambda: self.array()[low:high])

    def transposed(self) -> Source:
        return Derived(self.dtype, self.shape[::-1], lambda: self.array().T)

    def reshaped(self, shape: Shape) -> Source:
        return Derived(self.dtype, shape, lambda: self.array().reshape(shape))

    def settled(self) -> Source:
        return View(self.array())


def _without_units(shape: Shape) -> list[int]:
    return [length for length in shape if length != 1]
