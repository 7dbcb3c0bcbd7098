"""Lazy tensors: a dtype and a shape now, the values when somebody asks.

A tensor is a view of a file or an array, or it is derived from other tensors by a cast or a concatenation. Transposes,
splits and reshapes of views are views again; of derived tensors they are handed down to what these are derived from. So
a converted state dict is built without reading a byte, and each tensor is read once, in pieces, when it is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .casting import cast_into
from .dtypes import DType, is_floating
from .errors import RequestError
from .mapped_files import MappedFile
from .transposing import copy_into

Array = NDArray[Any]
Shape = tuple[int, ...]

BLOCK = 8 << 20
"""Bytes of a piece unless the caller says otherwise."""

_WHOLE_LINES = 64
"""Rows of a piece come in multiples of this, so that a transposed matrix is read in whole cache lines."""


@dataclass(frozen=True)
class Extent:
    """A stretch of a file, in bytes."""

    path: Path
    offset: int
    nbytes: int


class Tensor(ABC):
    """Named values to be: little endian, row-major when read, and immutable.

    Make one with ``Tensor.of``, ``Tensor.derived`` or ``Tensor.concatenate``, or open a file that holds some.
    """

    __slots__ = ("_dtype", "_shape", "__weakref__")

    def __init__(self, dtype: DType, shape: Shape) -> None:
        self._dtype, self._shape = dtype, shape

    @staticmethod
    def of(array: Array) -> Tensor:
        """A tensor of an array's values; the array must not change afterwards."""
        view = array.astype(array.dtype.newbyteorder("<"), copy=False).view()
        view.flags.writeable = False
        return View(view)

    @staticmethod
    def derived(dtype: DType, shape: Sequence[int], make: Callable[[], Array]) -> Tensor:
        """A tensor whose values ``make`` returns, called each time they are needed."""
        return _Derived(np.dtype(dtype), tuple(shape), make)

    @staticmethod
    def concatenate(tensors: Sequence[Tensor]) -> Tensor:
        """Tensors joined along their first axis. Raises ValueError where dtypes or other axes differ."""
        parts = tuple(tensors)
        if not parts or any(part.ndim == 0 or part.dtype != parts[0].dtype or part.shape[1:] != parts[0].shape[1:]
                            for part in parts):
            raise ValueError(f"cannot join {', '.join(map(repr, parts)) or 'nothing'} along the first axis")
        return parts[0] if len(parts) == 1 else _Joined(parts, 0)

    @property
    def dtype(self) -> DType:
        """The element type, little endian; ``ml_dtypes.bfloat16`` for bf16."""
        return self._dtype

    @property
    def shape(self) -> Shape:
        """The length of each axis."""
        return self._shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self._shape)

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return self.size * self._dtype.itemsize

    @property
    def floating(self) -> bool:
        """Whether the values are real floating-point numbers."""
        return is_floating(self._dtype)

    @property
    def extent(self) -> Extent | None:
        """Where the values lie, in row-major order and little endian, in one file; None where they do not."""
        return None

    def array(self) -> Array:
        """All values, read-only: a view of the memory-mapped file where there is one, else an array in memory."""
        out = np.empty(self._shape, self._dtype)
        self.fill(out)
        out.flags.writeable = False
        return out

    def blocks(self, limit: int = BLOCK) -> Iterator[Array]:
        """The values in row-major order as contiguous read-only arrays of at most ``limit`` bytes (at least one element).

        Leading axes of an array are cut or dropped as the limit asks; flattened, the arrays follow one another.
        """
        for piece in self.pieces(limit):
            out = np.empty(piece.shape, piece.dtype)
            piece.fill(out)
            out.flags.writeable = False
            yield out

    def pieces(self, limit: int) -> Iterator[Tensor]:
        """The same as lazy tensors, for a writer that fills buffers of its own."""
        if self.nbytes <= limit or self.ndim == 0:
            if self.size:
                yield self
            return
        whole = self._settled()
        row = whole.nbytes // whole.shape[0]
        if row > limit and whole.ndim > 1:
            for index in range(whole.shape[0]):
                yield from whole._rows(index, index + 1).reshape(whole.shape[1:]).pieces(limit)
            return
        step = max(1, limit // row)
        if step > _WHOLE_LINES:
            step -= step % _WHOLE_LINES
        for low in range(0, whole.shape[0], step):
            yield whole._rows(low, min(low + step, whole.shape[0]))

    def transpose(self) -> Tensor:
        """The axes in reverse order, as NumPy's ``.T``."""
        return self if self.ndim < 2 else self._transposed()

    def reshape(self, shape: Sequence[int]) -> Tensor:
        """The same values, row-major, under another shape. Raises ValueError where the sizes differ."""
        target = tuple(int(length) for length in shape)
        if prod(target) != self.size or any(length < 0 for length in target):
            raise ValueError(f"{self!r} cannot become {list(target)}")
        return self if target == self._shape else self._reshaped(target)

    def cast(self, dtype: DType, on_overflow: Callable[[int], None] | None = None) -> Tensor:
        """The values as another type, rounded to the nearest even; NaN and infinities stay.

        Where finite values become infinite, reading raises RequestError, or, if given, calls ``on_overflow`` with their
        number, once for each block that is read.
        """
        target = np.dtype(dtype)
        return self if target == self._dtype else _Cast(self, target, on_overflow)

    def split(self, parts: int) -> tuple[Tensor, ...]:
        """Equal parts along the first axis. Raises ValueError where they would not be equal."""
        if self.ndim == 0 or parts < 1 or self._shape[0] % parts:
            raise ValueError(f"{self!r} cannot be split into {parts} equal parts")
        rows = self._shape[0] // parts
        return tuple(self._rows(index * rows, (index + 1) * rows) for index in range(parts))

    def release(self) -> None:
        """Give back resident memory that reading has mapped. Values can still be read."""

    @abstractmethod
    def fill(self, out: Array) -> None:
        """Write all values into an array of this shape and type, whatever its strides."""

    @abstractmethod
    def _rows(self, low: int, high: int) -> Tensor:
        """A stretch of the first axis."""

    @abstractmethod
    def _transposed(self) -> Tensor:
        """``transpose`` for at least two axes."""

    @abstractmethod
    def _reshaped(self, shape: Shape) -> Tensor:
        """``reshape`` to another shape of the same size."""

    def _settled(self) -> Tensor:
        """The same tensor, with whatever cannot be made in pieces made once and held."""
        return self

    def __repr__(self) -> str:
        return f"{self._dtype.name} {list(self._shape)}"


class View(Tensor):
    """A NumPy view, of any strides, of an array in memory or of a mapped file."""

    __slots__ = ("_file", "_view")

    def __init__(self, view: Array, file: MappedFile | None = None) -> None:
        super().__init__(view.dtype, view.shape)
        self._view, self._file = view, file

    @property
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
        if self._file is not None and self.size:
            start = self._file.offset_of(self._view)
            span = sum((length - 1) * stride for length, stride in zip(self._shape, self._view.strides, strict=True))
            self._file.forget(start, start + span + self._dtype.itemsize)

    def _rows(self, low: int, high: int) -> Tensor:
        return View(self._view[low:high], self._file)

    def _transposed(self) -> Tensor:
        return View(self._view.T, self._file)

    def _reshaped(self, shape: Shape) -> Tensor:
        # Any other reshape would copy. NumPy would do that here and now, and without a word.
        if self._view.flags.c_contiguous or _without_units(shape) == _without_units(self._shape):
            return View(self._view.reshape(shape), self._file)
        return _Derived(self._dtype, shape, lambda: self._view.reshape(shape))


class _Cast(Tensor):
    """Values of another tensor under another type."""

    __slots__ = ("_on_overflow", "_source")

    def __init__(self, source: Tensor, dtype: DType, on_overflow: Callable[[int], None] | None) -> None:
        super().__init__(dtype, source.shape)
        self._source, self._on_overflow = source, on_overflow

    def fill(self, out: Array) -> None:
        if not out.flags.c_contiguous:
            np.copyto(out, self.array())
            return
        flat, done = out.reshape(-1), 0
        for block in self._source.blocks():
            lost = cast_into(flat[done:done + block.size], block.reshape(-1))
            done += block.size
            if lost:
                self._report(lost)

    def _report(self, lost: int) -> None:
        if self._on_overflow is not None:
            self._on_overflow(lost)
            return
        raise RequestError(f"{lost} values are too large for {self._dtype.name}; choose bf16 or fp32.", count=lost)

    def release(self) -> None:
        self._source.release()

    def _like(self, source: Tensor) -> Tensor:
        return _Cast(source, self._dtype, self._on_overflow)

    def _rows(self, low: int, high: int) -> Tensor:
        return self._like(self._source._rows(low, high))

    def _transposed(self) -> Tensor:
        return self._like(self._source.transpose())

    def _reshaped(self, shape: Shape) -> Tensor:
        return self._like(self._source.reshape(shape))

    def _settled(self) -> Tensor:
        return self._like(self._source._settled())


class _Joined(Tensor):
    """Tensors side by side along one axis."""

    __slots__ = ("_axis", "_parts")

    def __init__(self, parts: tuple[Tensor, ...], axis: int) -> None:
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

    def _rows(self, low: int, high: int) -> Tensor:
        if self._axis:
            return _Joined(tuple(part._rows(low, high) for part in self._parts), self._axis)
        inside, start = [], 0
        for part in self._parts:
            stop = start + part.shape[0]
            if max(low, start) < min(high, stop):
                inside.append(part._rows(max(low, start) - start, min(high, stop) - start))
            start = stop
        return Tensor.concatenate(inside or [self._parts[0]._rows(0, 0)])

    def _transposed(self) -> Tensor:
        return _Joined(tuple(part.transpose() for part in self._parts), self.ndim - 1 - self._axis)

    def _reshaped(self, shape: Shape) -> Tensor:
        if self._axis == 0 and shape and shape[0] == self._shape[0]:
            return _Joined(tuple(part.reshape((part.shape[0], *shape[1:])) for part in self._parts), 0)
        return _Derived(self._dtype, shape, lambda: self.array().reshape(shape))

    def _settled(self) -> Tensor:
        return _Joined(tuple(part._settled() for part in self._parts), self._axis)


class _Derived(Tensor):
    """Values that a function returns as a whole."""

    __slots__ = ("_make",)

    def __init__(self, dtype: DType, shape: Shape, make: Callable[[], Array]) -> None:
        super().__init__(dtype, shape)
        self._make = make

    def array(self) -> Array:
        made = self._make()
        if made.dtype != self._dtype or made.shape != self._shape:
            raise ValueError(f"{made.dtype.name} {list(made.shape)} was made for {self!r}")
        view = made.view()
        view.flags.writeable = False
        return view

    def fill(self, out: Array) -> None:
        copy_into(out, self.array())

    def _rows(self, low: int, high: int) -> Tensor:
        return _Derived(self._dtype, (high - low, *self._shape[1:]), lambda: self.array()[low:high])

    def _transposed(self) -> Tensor:
        return _Derived(self._dtype, self._shape[::-1], lambda: self.array().T)

    def _reshaped(self, shape: Shape) -> Tensor:
        return _Derived(self._dtype, shape, lambda: self.array().reshape(shape))

    def _settled(self) -> Tensor:
        return Tensor.of(self.array())


def _without_units(shape: Shape) -> list[int]:
    return [length for length in shape if length != 1]
