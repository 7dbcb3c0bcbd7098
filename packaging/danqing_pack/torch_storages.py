"""What a torch pickle may name: storages, the functions that lay tensors over them, and a few plain types."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .dtypes import STORAGES, TORCH, DType
from .lazy_tensors import Tensor
from .mapped_files import Bytes, MappedFile
from .pickle_machine import Function, fill
from .sources import View

_LARGEST_EXPANDED = 1 << 30
"""Bytes that a tensor may show beyond those it has: an axis of stride 0 costs a file nothing."""


@dataclass(frozen=True)
class StorageType:
    """A storage class; ``dtype`` is None for untyped bytes."""

    dtype: DType | None


@dataclass(frozen=True)
class Storage:
    """The bytes that tensors lie in: a stretch of a file, or made by a function where they must be changed first."""

    dtype: DType | None
    nbytes: int
    file: MappedFile
    offset: int = 0
    make: Callable[[], Bytes] | None = None


def storage_entry(identifier: Any) -> tuple[StorageType, str, int]:
    """A persistent id: the word ``storage``, its class, its key, its device, its number of elements."""
    if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
        raise TypeError("a persistent id that names no storage")
    kind, key, count = identifier[1], identifier[2], identifier[4]
    if not isinstance(kind, StorageType) or type(key) is not str or type(count) is not int or count < 0:
        raise TypeError("a storage without class, key or size")
    return kind, key, count


def swapped(raw: Bytes, dtype: DType) -> Bytes:
    """Big-endian values as little-endian ones."""
    part = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return raw.view(f"u{part}").byteswap().view(np.uint8)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2; the rest is about gradients."""
    return _laid_over(storage, storage.dtype if isinstance(storage, Storage) else None, offset, size, stride)


def _tensor_of_type(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any,
                    *rest: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v3, which names the type that an untyped storage does not."""
    return _laid_over(storage, dtype, offset, size, stride)


def _laid_over(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise TypeError("a tensor without a storage or a type")
    if not _are_counts([offset]) or not _are_counts(size) or not _are_counts(stride) or len(size) != len(stride):
        raise ValueError("a tensor of impossible size or stride")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if prod(size) and (last + 1) * dtype.itemsize > storage.nbytes:
        raise ValueError("a tensor that reaches beyond its storage")
    if prod(size) * dtype.itemsize > max(storage.nbytes, _LARGEST_EXPANDED):
        raise ValueError("a tensor expanded beyond reason")
    if not prod(size):
        return Tensor.of(np.empty(size, dtype))
    start, stop = offset * dtype.itemsize, (last + 1) * dtype.itemsize
    steps, make = [step * dtype.itemsize for step in stride], storage.make
    if make is not None:
        return Tensor.derived(dtype, size, lambda: np.ndarray(size, dtype, make()[start:stop], strides=steps))
    raw = storage.file.bytes[storage.offset + start:storage.offset + stop]
    return Tensor(View(np.ndarray(size, dtype, raw, strides=steps), storage.file))


def _are_counts(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(type(each) is int and 0 <= each < 1 << 62 for each in values)


def _parameter(data: Any, *rest: Any) -> Any:
    """torch._utils._rebuild_parameter: a parameter is its tensor; the rest is about gradients."""
    return data


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = fill(OrderedDict(), [each for key, value in items for each in (key, value)])
    return made


def _size(lengths: Any) -> tuple[Any, ...]:
    return tuple(lengths)


NAMES: dict[str, Any] = {
    "collections.OrderedDict": Function(_ordered),
    "torch._utils._rebuild_tensor": Function(_tensor),
    "torch._utils._rebuild_tensor_v2": Function(_tensor),
    "torch._utils._rebuild_tensor_v3": Function(_tensor_of_type),
    "torch._utils._rebuild_parameter": Function(_parameter),
    "torch.Size": Function(_size),
    **{f"torch.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.cuda.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": StorageType(None),
    "torch.storage._UntypedStorage": StorageType(None),
    **{f"torch.{name}": dtype for name, dtype in TORCH.items()},
}
"""The allow-list."""
