"""The safetensors format: a JSON header and the tensors' bytes, read in place and written in one pass.

The layout of a file is that of the reference implementation: wide types before narrow ones, so that every tensor is
aligned, and names in order within a type. Equal tensors give an equal file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .digests import HashedFile, Progress
from .dtypes import SAFETENSORS
from .errors import ConversionError, FormatError, RequestError, listing
from .lazy_tensors import Tensor
from .mapped_files import MappedFile
from .sources import View

_LONGEST_HEADER = 100_000_000
_METADATA = "__metadata__"
_NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(SAFETENSORS.values())}


def open_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of its header; only the header is read.

    Raises:
        FormatError: the file is cut short, or its header does not describe it.
    """
    return read_safetensors(MappedFile(path))


def read_safetensors(file: MappedFile) -> dict[str, Tensor]:
    """``open_safetensors`` for a file that is open already."""
    header, start = _header(file)
    data = file.bytes[start:]
    tensors: dict[str, Tensor] = {}
    stretches: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, low, high = _entry(file, name, entry)
        if high > len(data):
            raise FormatError(f"{file.path} is cut short: {name} ends at byte {start + high} and the file at "
                              f"{file.size}; fetch it again.", path=file.path)
        stretches.append((low, high, name))
        try:
            tensors[name] = Tensor(View(data[low:high].view(dtype).reshape(shape), file))
        except ValueError as error:     # more axes, or longer ones, than an array can have
            raise _damaged(file, f"gives {name} the shape {shape}") from error
    _require_gapless(file, sorted(stretches), len(data))
    return tensors


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file that starts with these nine bytes is, or was, in this format."""
    return len(start) >= 9 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor],
                      metadata: Mapping[str, str] | None = None, progress: Progress | None = None) -> str:
    """Write a new file, one tensor in memory at a time; its sha256 in hexadecimal.

    ``progress`` is called with the bytes written since the last call. An unfinished file is removed.

    Raises:
        ConversionError: a name or a type that the format cannot hold.
        RequestError: values overflow a cast, or the file exists.
    """
    _require_storable(tensors)
    order = sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with HashedFile(path, progress) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            write_named(file, name, tensors[name])
    return file.sha256


def write_named(file: HashedFile, name: str, tensor: Tensor) -> int:
    """Append a tensor; its CRC-32. A value that overflows is reported under the tensor's name."""
    try:
        return file.write_tensor(tensor)
    except RequestError as error:
        raise RequestError(f"{name}: {error}", name=name, **error.data) from error


def _require_storable(tensors: Mapping[str, Tensor]) -> None:
    foreign = sorted({tensor.dtype.name for tensor in tensors.values() if tensor.dtype not in _NAMES})
    if foreign:
        raise ConversionError(f"safetensors has no place for {listing(foreign)}; cast such tensors or leave them out.",
                              problems=foreign)
    names = [repr(name) for name in tensors if name == _METADATA or not _is_text(name)]
    if names:
        raise ConversionError(f"safetensors cannot hold a tensor named {listing(names)}; rename it.", problems=names)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- reading the header

def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header without its metadata, and where the data starts."""
    if file.size < 8:
        raise FormatError(f"{file.path} is cut short: it has {file.size} bytes; fetch it again.", path=file.path)
    length = int.from_bytes(file.bytes[:8].tobytes(), "little")
    if length > _LONGEST_HEADER:
        raise FormatError(f"{file.path} is no safetensors file: it starts with no header length; check what was "
                          "fetched.", path=file.path)
    if 8 + length > file.size:
        raise FormatError(f"{file.path} is cut short: its header of {length} bytes is not all there; fetch it again.",
                          path=file.path)
    try:
        header = json.loads(file.bytes[8:8 + length].tobytes().decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"is no header ({type(error).__name__}: {error})") from error
    if not isinstance(header, dict):
        raise _damaged(file, "is no JSON object")
    header.pop(_METADATA, None)
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = sorted({name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1})
        raise ValueError(f"{listing(twice, 3)} stands there twice")
    return found


def _entry(file: MappedFile, name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """dtype, shape, first and last byte of one tensor, which agree with each other."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise _damaged(file, f"does not describe {name}")
    dtype = SAFETENSORS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise FormatError(f"{file.path} holds {name} as {entry['dtype']!r}, a type that Danqing does not read; save it "
                          f"as one of {listing(tuple(SAFETENSORS), 20)}.", path=file.path, dtype=entry["dtype"])
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _damaged(file, f"gives {name} the shape {shape!r} at {offsets!r}")
    low, high = offsets
    if high - low != prod(shape) * dtype.itemsize:
        raise _damaged(file, f"gives {name}, {entry['dtype']} {shape}, {high - low} bytes")
    return dtype, tuple(shape), low, high


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _require_gapless(file: MappedFile, stretches: list[tuple[int, int, str]], size: int) -> None:
    end, before = 0, "the header"
    for low, high, name in stretches:
        if low != end:
            kind = "overlap" if low < end else "leave a gap"
            raise _damaged(file, f"lets {before} and {name} {kind}")
        end, before = high, name
    if end != size:
        raise _damaged(file, f"describes {end} of {size} bytes")


def _damaged(file: MappedFile, fact: str) -> FormatError:
    return FormatError(f"{Path(file.path)} is damaged: its header {fact}; fetch it again.", path=file.path)
