"""What ``torch.save`` wrote before version 1.6, and writes still when asked: pickles and values in one stream.

Five pickles (magic, protocol, platform, tree, keys of storages), then each storage's length and values in the order of
the keys. The tree comes before the storages that it names, so it runs twice: to learn their sizes, and to lay tensors
over them where they lie. torch itself is not asked, since its ``weights_only`` has let code through in some versions.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from .errors import FormatError
from .mapped_files import MappedFile
from .pickle_machine import PickleMachine, damaged
from .torch_storages import NAMES, Storage, storage_entry

_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that such a file starts with, as a pickle of any protocol ends with it."""

_PROTOCOL = 1001
_LARGEST_PROGRAM = 64 << 20


def looks_like_stream(start: bytes) -> bool:
    """Whether a file that starts with these bytes is in this form."""
    return start.startswith(b"\x80") and _MAGIC in start[:32]


def load_stream(file: MappedFile) -> Any:
    """The tree of an open file, unchecked. Raises UnsafeError and FormatError as ``pickles.load`` does."""
    stream = BytesIO(file.bytes[:_LARGEST_PROGRAM].tobytes())
    _, protocol, platform = (_plain(stream, file) for _ in range(3))
    if protocol != _PROTOCOL or not isinstance(platform, dict) or platform.get("little_endian") is not True:
        raise FormatError(f"{file.path} was written by another version of torch or on a big-endian machine; save it "
                          "anew with torch.save.", path=file.path)
    start = stream.tell()
    sizes: dict[str, Storage] = {}

    def sized(identifier: Any) -> Storage:
        kind, key, count = storage_entry(identifier)
        nbytes = count * (kind.dtype.itemsize if kind.dtype else 1)
        if nbytes > file.size:
            raise ValueError(f"a storage of {nbytes} bytes in a file of {file.size}")
        return sizes.setdefault(key, Storage(kind.dtype, nbytes, file))

    PickleMachine(NAMES, sized, file.path).run(stream)
    keys = _plain(stream, file)
    storages = _laid_out(file, sizes, keys, stream.tell())

    def placed(identifier: Any) -> Storage:
        return _viewed(storages[storage_entry(identifier)[1]], identifier[5:])

    stream.seek(start)
    return PickleMachine(NAMES, placed, file.path).run(stream)


def _plain(stream: BytesIO, file: MappedFile) -> Any:
    def refused(identifier: Any) -> Any:
        raise TypeError("a persistent id outside the tree")

    return PickleMachine({}, refused, file.path).run(stream)


def _laid_out(file: MappedFile, sizes: dict[str, Storage], keys: Any, start: int) -> dict[str, Storage]:
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != set(sizes):
        raise damaged(file.path, "other storages than its tensors name")
    placed: dict[str, Storage] = {}
    for key in keys:
        storage = sizes[key]
        count = int.from_bytes(file.bytes[start:start + 8].tobytes(), "little")
        if count * (storage.dtype.itemsize if storage.dtype else 1) != storage.nbytes:
            raise damaged(file.path, "a storage of another size than its tensors say")
        start += 8
        if start + storage.nbytes > file.size:
            raise FormatError(f"{file.path} is cut short: its tensors reach byte {start + storage.nbytes} and the file "
                              f"ends at {file.size}; fetch it again.", path=file.path)
        placed[key] = Storage(storage.dtype, storage.nbytes, file, start)
        start += storage.nbytes
    return placed


def _viewed(storage: Storage, rest: tuple[Any, ...]) -> Storage:
    """A storage that is a stretch of another one: its key, first element and length stand in the persistent id."""
    if not rest or rest[0] is None:
        return storage
    _, first, count = rest[0]
    width = storage.dtype.itemsize if storage.dtype else 1
    if type(first) is not int or type(count) is not int or not 0 <= first * width <= first * width + count * width <= (
            storage.nbytes):
        raise ValueError("a view beyond its storage")
    return Storage(storage.dtype, count * width, storage.file, storage.offset + first * width)
