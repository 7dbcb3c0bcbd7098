"""The pickle inside a torch file, written one instruction at a time; it names only what torch reads as weights."""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Any

from .dtypes import STORAGES, TORCH, DType
from .errors import ConversionError
from .lazy_tensors import Tensor
from .sources import Extent

_ORDERED = b"ccollections\nOrderedDict\n"
_REBUILD, _REBUILD_TYPED = (b"ctorch._utils\n_rebuild_tensor_v%d\n" % version for version in (2, 3))
_CLASSES = {dtype: name for name, dtype in STORAGES.items()}
_TYPES = {dtype: name for name, dtype in TORCH.items()}


class PickleProgram:
    """The instructions (``code``) for a tree, and its tensors in the order of their storage keys, with a name for each.

    Raises:
        ConversionError: a value that ``torch.load(weights_only=True)`` would not read.
    """

    def __init__(self, tree: Any) -> None:
        self.storages: list[tuple[str, Tensor]] = []
        self._keys: dict[tuple[DType, Extent | int], int] = {}
        self._memo: dict[bytes, int] = {}
        self._code = bytearray(b"\x80\x02")
        self._add(tree, "")
        self._code += b"."
        self.code = bytes(self._code)

    def _add(self, node: Any, place: str) -> None:
        if isinstance(node, Tensor):
            self._tensor(node, place)
        elif isinstance(node, dict):
            self._code += self._once(_ORDERED) + b")R(" if isinstance(node, OrderedDict) else b"}("
            for key, value in node.items():
                self._plain(key, place)
                self._add(value, f"{place}.{key}" if place else str(key))
            self._code += b"u"
        elif isinstance(node, (list, tuple)):
            self._code += b"](" if isinstance(node, list) else b"("
            for index, value in enumerate(node):
                self._add(value, f"{place}[{index}]")
            self._code += b"e" if isinstance(node, list) else b"t"
        else:
            self._plain(node, place)

    def _plain(self, value: Any, place: str) -> None:
        if value is None:
            self._code += b"N"
        elif isinstance(value, bool):
            self._code += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self._code += _integer(value, place)
        elif isinstance(value, float):
            self._code += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self._code += _text(value, place)
        else:
            raise ConversionError(f"{place or 'The tree'} is a {type(value).__name__}, and a torch file takes tensors "
                                  "and plain values; leave it out.", problems=[place])

    def _tensor(self, tensor: Tensor, place: str) -> None:
        if tensor.dtype not in _TYPES:
            raise ConversionError(f"{place or 'The tensor'} is {tensor.dtype.name}, which torch does not have; cast "
                                  "it.", problems=[place])
        typed = _CLASSES.get(tensor.dtype)
        name = f"ctorch\n{typed}\n" if typed else "ctorch.storage\nUntypedStorage\n"
        key, count = self._key(tensor, place), tensor.size if typed else tensor.nbytes
        stride = [1] * tensor.ndim
        for axis in range(tensor.ndim - 1, 0, -1):
            stride[axis - 1] = stride[axis] * max(tensor.shape[axis], 1)
        once = self._once
        self._code += once(_REBUILD if typed else _REBUILD_TYPED) + b"((" + once(_text("storage", place))
        self._code += once(name.encode()) + _text(str(key), place) + once(_text("cpu", place)) + _integer(count)
        self._code += b"tQK\x00(" + b"".join(map(_integer, tensor.shape)) + b"t(" + b"".join(map(_integer, stride))
        self._code += b"t\x89" + once(_ORDERED) + b")R"
        self._code += (b"" if typed else once(f"ctorch\n{_TYPES[tensor.dtype]}\n".encode())) + b"tR"

    def _once(self, code: bytes) -> bytes:
        """Instructions that push one of a few constants, remembered the first time and recalled from then on."""
        if code in self._memo:
            return b"h" + struct.pack("<B", self._memo[code])
        self._memo[code] = len(self._memo)
        return code + b"q" + struct.pack("<B", self._memo[code])

    def _key(self, tensor: Tensor, place: str) -> int:
        """The number of the storage; tensors that lie in the same place share theirs, as tied weights do."""
        where = (tensor.dtype, tensor.extent or id(tensor))
        if where not in self._keys:
            self._keys[where] = len(self.storages)
            self.storages.append((place, tensor))
        return self._keys[where]


def _integer(value: int, place: str = "") -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) > 255:
        raise ConversionError(f"{place or 'The tree'} is a number of {len(data)} bytes; leave it out.",
                              problems=[place])
    return b"\x8a" + struct.pack("<B", len(data)) + data


def _text(value: str, place: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise ConversionError(f"{value!r} in {place or 'the tree'} is no text; rename it.", problems=[place]) from error
    return b"X" + struct.pack("<I", len(data)) + data
