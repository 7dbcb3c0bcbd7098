"""The two neutral forms of a checkpoint: what a layout opens to, and what it writes from.

A family knows how one form becomes the other, a layout knows how a form lies on disk. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .tensors import Tensor

Blob = Path | bytes
"""A small file: where it lies, or its content."""


@dataclass(frozen=True)
class Legacy:
    """A checkpoint as its original trainer wrote it: one flat state dict beside its files."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: Mapping[str, Blob] = field(default_factory=dict)
    attachments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """State dicts in files of their own, by file name, such as an upscaler's; read when they are asked for."""
    wrapper: str = ""
    """The key that wraps the state dict in the file, such as ``state_dict``; empty for a flat one."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The content of ``danqing.json``, where the folder has one."""
    left: tuple[str, ...] = ()
    """Files of the folder that no conversion carries over."""


@dataclass(frozen=True)
class Component:
    """One entry of ``model_index.json``."""

    library: str
    class_name: str
    config: Mapping[str, Any] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    files: Mapping[str, Blob] = field(default_factory=dict)


@dataclass(frozen=True)
class Modern:
    """A checkpoint as diffusers keeps it: components beside small files."""

    class_name: str
    components: Mapping[str, Component]
    attachments: Mapping[str, Component] = field(default_factory=dict)
    """Folders with weights that ``model_index.json`` does not name, such as an upscaler."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Entries of ``model_index.json`` that are no component, such as ``requires_safety_checker``."""
    files: Mapping[str, Blob] = field(default_factory=dict)
    unused: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that have no modern home; they lie in ``legacy/unused.safetensors`` and go back from there."""
    remade: Mapping[str, str] | None = None
    """Legacy buffers that are computed again on the way back, and their dtypes; None where nothing is known."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    @property
    def folders(self) -> dict[str, Component]:
        """Every component and attachment by its folder, sorted."""
        return dict(sorted({**self.components, **self.attachments}.items()))


def content(blob: Blob) -> bytes:
    """The bytes of a small file."""
    return blob if isinstance(blob, bytes) else blob.read_bytes()
