"""Lazy tensors: a type and a shape now, the values when somebody asks.

A converted state dict is built out of these without reading a byte, and each tensor is read once, in pieces, when it is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from .dtypes import DType, is_floating
from .sources import Array, Cast, Derived, Extent, Joined, OnOverflow, Shape, Source, View

BLOCK = 8 << 20
"""Bytes of a block unless the caller says otherwise."""


class Tensor:
    """Values to be: little endian, row-major when read, and immutable.

    Make one with ``Tensor.of``, ``Tensor.derived`` or ``Tensor.concatenate``, or open a file that holds some.
    """

    __slots__ = ("__weakref__", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source

    @staticmethod
    def of(array: Array) -> Tensor:
        """A tensor of an array's values; the array must not change afterwards."""
        view = array.astype(array.dtype.newbyteorder("<"), copy=False).view()
        view.flags.writeable = False
        return Tensor(View(view))

    @staticmethod
    def derived(dtype: DType, shape: Sequence[int], make: Callable[[], Array]) -> Tensor:
        """A tensor whose values ``make`` returns, called each time they are needed."""
        return Tensor(Derived(np.dtype(dtype), tuple(shape), make))

    @staticmethod
    def concatenate(tensors: Sequence[Tensor]) -> Tensor:
        """Tensors joined along their first axis. Raises ValueError where types or other axes differ."""
        parts = tuple(tensors)
        if not parts or any(part.ndim == 0 or part.dtype != parts[0].dtype or part.shape[1:] != parts[0].shape[1:]
                            for part in parts):
            raise ValueError(f"cannot join {', '.join(map(repr, parts)) or 'nothing'} along the first axis")
        return parts[0] if len(parts) == 1 else Tensor(Joined(tuple(part._source for part in parts)))

    @property
    def dtype(self) -> DType:
        """The element type, little endian; ``ml_dtypes.bfloat16`` for bf16."""
        return self._source.dtype

    @property
    def shape(self) -> Shape:
        """The length of each axis."""
        return self._source.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._source.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._source.size

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return self._source.nbytes

    @property
    def floating(self) -> bool:
        """Whether the values are real floating-point numbers."""
        return is_floating(self.dtype)

    @property
    def extent(self) -> Extent | None:
        """Where the values lie, in row-major order and little endian, in one file; None where they do not."""
        return self._source.extent()

    def array(self) -> Array:
        """All values, read-only: a view of the memory-mapped file where there is one, else an array in memory."""
        return self._source.array()

    def blocks(self, limit: int = BLOCK) -> Iterator[Array]:
        """The values in row-major order as contiguous read-only arrays of at most ``limit`` bytes, or one element.

        Leading axes are cut or dropped as the limit asks; flattened, the arrays follow one another.
        """
        for piece in self._source.pieces(limit):
            out = np.empty(piece.shape, piece.dtype)
            piece.fill(out)
            out.flags.writeable = False
            yield out

    def pieces(self, limit: int) -> Iterator[Tensor]:
        """The same as lazy tensors, for a writer that fills buffers of its own."""
        return map(Tensor, self._source.pieces(limit))

    def fill(self, out: Array) -> None:
        """Write all values into an array of this shape and type, whatever its strides."""
        self._source.fill(out)

    def release(self) -> None:
        """Give back resident memory that reading has mapped. Values can still be read."""
        self._source.release()

    def transpose(self) -> Tensor:
        """The axes in reverse order, as NumPy's ``.T``."""
        return self if self.ndim < 2 else Tensor(self._source.transposed())

    def reshape(self, shape: Sequence[int]) -> Tensor:
        """The same values, row-major, under another shape. Raises ValueError where the sizes differ."""
        target = tuple(int(length) for length in shape)
        if prod(target) != self.size or any(length < 0 for length in target):
            raise ValueError(f"{self!r} cannot become {list(target)}")
        return self if target == self.shape else Tensor(self._source.reshaped(target))

    def cast(self, dtype: DType, on_overflow: OnOverflow | None = None) -> Tensor:
        """The values as another type, rounded to the nearest even; NaN and infinities stay.

        Where finite values become infinite, reading raises RequestError (attribute ``count``), or, if given, calls
        ``on_overflow`` with their number, once for each block that is read.
        """
        target = np.dtype(dtype)
        return self if target == self.dtype else Tensor(Cast(self._source, target, on_overflow))

    def split(self, parts: int) -> tuple[Tensor, ...]:
        """Equal parts along the first axis. Raises ValueError where they would not be equal."""
        if self.ndim == 0 or parts < 1 or self.shape[0] % parts:
            raise ValueError(f"{self!r} cannot be split into {parts} equal parts")
        rows = self.shape[0] // parts
        return tuple(Tensor(self._source.rows(index * rows, (index + 1) * rows)) for index in range(parts))

    def __repr__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"
