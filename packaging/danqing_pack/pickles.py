"""Checkpoints of ``torch.save``, read and written without torch.

``load`` reads torch's zip files and the older form that preceded them over a memory map: names, types and shapes now,
values when somebody asks. A file in the safetensors format is known by its content, whatever its suffix. ``dump``
writes zip files that ``torch.load`` reads with ``weights_only=True`` and ``mmap=True``; equal trees give equal files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

from .digests import HashedFile, Progress
from .errors import FormatError
from .lazy_tensors import Tensor
from .mapped_files import MappedFile
from .pickle_machine import PickleMachine, damaged, require_plain_tree
from .pickle_programs import PickleProgram
from .safetensor_files import looks_like_safetensors, read_safetensors, write_named
from .torch_archives import ArchiveWriter, TorchArchive, inflated
from .torch_storages import NAMES, Storage, StorageType, storage_entry, swapped
from .torch_streams import load_stream, looks_like_stream

Tree = Any
"""A Tensor, a plain value, or a dict, list or tuple of trees."""

_ROOT = "archive"


def load(path: str | os.PathLike[str]) -> Tree:
    """The tree that ``torch.load`` would give, with lazy tensors for leaves; reads no tensor's values.

    Raises:
        UnsafeError: the file asks for more than data; ``name`` says for what.
        FormatError: the file is cut short, damaged, or none of torch's.
    """
    file = MappedFile(path)
    start = file.bytes[:64].tobytes()
    if start.startswith(b"PK"):
        tree = _load_archive(TorchArchive(file))
    elif looks_like_stream(start):
        tree = load_stream(file)
    elif looks_like_safetensors(start):
        return read_safetensors(file)
    else:
        raise _foreign(file, start)
    require_plain_tree(tree, Tensor, file.path)
    return tree


def verify(path: str | os.PathLike[str]) -> None:
    """Read a whole zip file and compare every record with its checksum; other forms have none.

    Raises:
        FormatError: some do not match; ``records`` names them.
    """
    file = MappedFile(path)
    if file.bytes[:2].tobytes() != b"PK":
        return
    records = TorchArchive(file).damaged_records()
    if records:
        raise FormatError(f"{file.path} is damaged: {len(records)} of its records do not match their checksums; fetch "
                          "it again.", path=file.path, records=records)


def dump(path: str | os.PathLike[str], tree: Tree, progress: Progress | None = None) -> str:
    """Write a new zip file, one tensor in memory at a time; its sha256 in hexadecimal.

    Takes dicts, lists, tuples, text, numbers, None and tensors, in the order given; a tensor that occurs twice is
    stored once. ``progress`` is called with the bytes written since the last call. An unfinished file is removed.

    Raises:
        ConversionError: a value that ``torch.load(weights_only=True)`` would not read.
        RequestError: values overflow a cast, or the file exists.
    """
    program = PickleProgram(tree)
    with HashedFile(path, progress) as file:
        archive = ArchiveWriter(file, _ROOT)
        archive.add_bytes("data.pkl", program.code)
        archive.add_bytes("byteorder", b"little")
        for key, (name, tensor) in enumerate(program.storages):
            archive.add(f"data/{key}", tensor.nbytes, _writer(name, tensor))
        archive.add_bytes("version", b"3\n")
        archive.close()
    return file.sha256


def _writer(name: str, tensor: Tensor) -> Callable[[HashedFile], int]:
    return lambda file: write_named(file, name, tensor)


# ---------------------------------------------------------------- zip files

def _load_archive(archive: TorchArchive) -> Tree:
    order = archive.read("byteorder") if "byteorder" in archive else b"little"
    if order not in (b"little", b"big"):
        raise damaged(archive.file.path, "an unknown byte order")
    storages: dict[str, Storage] = {}

    def persistent(identifier: Any) -> Storage:
        kind, key, count = storage_entry(identifier)
        if key not in storages:
            storages[key] = _stored(archive, kind, key, count, order == b"big")
        return storages[key]

    return PickleMachine(NAMES, persistent, archive.file.path).run(BytesIO(archive.read("data.pkl")))


def _stored(archive: TorchArchive, kind: StorageType, key: str, count: int, big: bool) -> Storage:
    nbytes = count * (kind.dtype.itemsize if kind.dtype else 1)
    file, dtype = archive.file, kind.dtype
    if not nbytes:
        return Storage(dtype, 0, file)
    record = archive.record(f"data/{key}")
    if record.size != nbytes:
        raise ValueError(f"data/{key} has {record.size} bytes and not {nbytes}")
    if big and dtype is None:
        raise ValueError("big-endian values of unknown type")
    if big and dtype is not None and dtype.itemsize > 1:
        return Storage(dtype, nbytes, file, make=lambda: swapped(inflated(file, record), dtype))
    if not record.stored:
        return Storage(dtype, nbytes, file, make=lambda: inflated(file, record))
    return Storage(dtype, nbytes, file, record.offset)


# ---------------------------------------------------------------- what is neither

_KINDS = {
    b"version https://git-lfs": "is a pointer of git-lfs and not the file itself; run `git lfs pull`",
    b"<": "is a web page and not the file itself; fetch the file behind it",
    b"\x1f\x8b": "is a gzip archive; unpack it first",
    b"\x89HDF": "is an HDF5 file, which holds no torch checkpoint; look for pytorch_model.bin",
    b"\x80": "is a plain pickle and none of torch's, which only code could read; save it with torch.save",
}


def _foreign(file: MappedFile, start: bytes) -> FormatError:
    kind = next((fact for mark, fact in _KINDS.items() if start.lstrip().startswith(mark)), None)
    if kind is None:
        kind = "is neither a file of torch.save nor a safetensors file; check what was fetched"
    return FormatError(f"{file.path} {kind}.", path=file.path)
