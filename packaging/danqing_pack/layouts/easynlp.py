"""The EasyNLP folder: ``config.json``, ``pytorch_model.bin``, ``vocab.txt`` and what the trainer left beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from .. import manifests, pickles
from ..errors import FormatError
from ..json_files import as_json, read_json
from ..sides import Blob, Legacy
from ..tensors import Tensor
from .layout import Contents, Layout, flat_state, relative_files

WEIGHTS = "pytorch_model.bin"
CARRIED = ("config.json", "vocab.txt", "train_config.json", "label_mapping.json")
ATTACHED = ("RRDB_ESRGAN_x4.pth",)
"""Weights of other networks beside the checkpoint's own."""
FOLDERS = ("clip-vit-large-patch14",)
"""Folders that the app StableDiffusion keeps beside its weights."""
OWN = ("danqing.json", "configuration.json")
"""Files that are made anew with every folder."""


def matches(path: Path) -> bool:
    """A folder with weights under EasyNLP's name and no diffusers index."""
    return (path / WEIGHTS).is_file() and not (path / "model_index.json").exists()


def files(path: Path) -> tuple[str, ...]:
    """The files that belong to the checkpoint."""
    return tuple(name for name in relative_files(path) if name == WEIGHTS or _carried(name) or name in ATTACHED + OWN)


def _carried(name: str) -> bool:
    return name in CARRIED or name.startswith(tuple(f"{folder}/" for folder in FOLDERS))


def open_folder(path: Path) -> Legacy:
    """Read names, dtypes and shapes; no tensor data is touched.

    Raises:
        FormatError: config.json is missing or damaged, or the weights file holds no flat state dict.
    """
    if not (path / "config.json").is_file():
        raise FormatError(f"{path} has weights but no config.json; copy it from the checkpoint's source.", path=path)
    config = read_json(path / "config.json")
    tensors, wrapper = flat_state(pickles.load(path / WEIGHTS), path / WEIGHTS)
    names = tuple(relative_files(path))
    blobs: dict[str, Blob] = {name: path / name for name in names if _carried(name)}
    manifest = manifests.read(path)
    attachments = {name: _Attached(path / name) for name in ATTACHED if name in names}
    left = tuple(name for name in names if name not in {*blobs, *attachments, WEIGHTS, *OWN})
    return Legacy(config, tensors, blobs, attachments, wrapper, manifest, left)


class _Attached(Mapping[str, Tensor]):
    """A flat state dict that is opened when somebody looks at it: the oldest of these files need torch for that."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return flat_state(pickles.load(self._path), self._path)[0]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def contents(form: Legacy) -> Contents:
    """The files of a legacy form; state dicts are flat."""
    return Contents({"config.json": as_json(form.config), **form.files}, {WEIGHTS: form.tensors, **form.attachments})


EASYNLP = Layout("easynlp", Legacy, f"{WEIGHTS} beside config.json", matches, open_folder, files, contents)
