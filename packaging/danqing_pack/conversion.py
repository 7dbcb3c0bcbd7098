"""One checkpoint from one layout to another: the only place, with checking, where families and layouts meet."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import additions, manifests
from .detection import Opened, opened
from .dtypes import DTYPES, is_floating
from .errors import RequestError, listing
from .family import Form, Options, dimensions_json
from .json_files import as_json
from .layouts import LAYOUTS, Layout
from .layouts.layout import Progress
from .sides import Legacy, Modern
from .staging import CHECKPOINT, staged_folder
from .tensors import Tensor, sha256_of

NO_DIGEST = "0" * 64
"""Stands for a sha256 where a size alone is asked for."""
UNUSED_NOTE = "Left out what has no modern home (--drop-unused): the way back is partial."


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote, or would write: sizes in bytes by relative name, and lines a user should read.

    Of weights that would be written, the size is that of their tensors.
    """

    target: Path
    family: str
    layout: str
    files: Mapping[str, int]
    notes: tuple[str, ...]
    dry_run: bool = False

    def describe(self) -> str:
        """One line that says what was written."""
        verb = "Would write" if self.dry_run else "Wrote"
        return (f"{verb} {self.target}: {self.family}, {self.layout} layout, {len(self.files)} files, "
                f"{sum(self.files.values()) / 1e6:,.1f} MB.")


def convert(
    source: str | Path, target: str | Path, to: str, *, dtype: str | None = None, force: bool = False,
    drop_unused: bool = False, text_length: int | None = None, weights: str = "auto", dry_run: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write the checkpoint at ``source`` (a folder of any layout, or a bundle) to the new folder ``target``.

    A ControlNet, a LoRA or a textual inversion is written as today's libraries save it (``to="diffusers"``).

    ``to`` names a layout; ``dtype`` is fp32, fp16 or bf16 (default: as stored) and touches floating tensors only.
    ``progress`` is called with the bytes written since the last call. The source is never touched, and ``target``
    appears whole or not at all.

    Raises:
        FormatError, ConversionError, UnsafeError: what lies at ``source`` cannot be read or carried over.
        RequestError: the target exists, the layout or dtype is unknown, or a value overflows the new dtype.
    """
    addition = additions.recognise(source)
    if addition is not None:
        sizes = additions.write(addition, target, to, dtype=dtype, force=force, dry_run=dry_run, progress=progress)
        return Conversion(Path(target), addition.kind, to, sizes, (), dry_run)
    options = Options(text_length, weights, drop_unused)
    layout = _layout(to)
    with opened(source) as found:
        form = target_form(found, layout, options, dtype)
        size = dimensions_json(found.family.dimensions(found.form, options))
        notes = tuple(_notes(found, form, options))
        contents = layout.contents(form)
        extra = {"remade": dict(form.remade)} if isinstance(form, Modern) and form.remade is not None else {}

        def manifest(files: Mapping[str, str], sources: Mapping[str, str]) -> bytes:
            return manifests.encode(manifests.build(
                family=found.family.name, layout=to, dimensions=size, files=files,
                source={"layout": found.layout.name, "files": sources}, **extra))

        if dry_run:
            planned = contents.sizes()
            planned[manifests.NAME] = len(manifest(dict.fromkeys(planned, NO_DIGEST), dict.fromkeys(found.names, NO_DIGEST)))
            return Conversion(Path(target), found.family.name, to, dict(sorted(planned.items())), notes, dry_run=True)
        with (staged_folder(target, force=force, sources=[source], marks=CHECKPOINT) as folder,
              ThreadPoolExecutor(1) as second_core):
            hashing = {name: second_core.submit(sha256_of, found.folder / name) for name in found.names}
            digests = contents.write(folder, progress)
            (folder / manifests.NAME).write_bytes(manifest(digests, {name: done.result() for name, done in hashing.items()}))
            sizes = {name: (folder / name).stat().st_size for name in sorted([*digests, manifests.NAME])}
    return Conversion(Path(target), found.family.name, to, sizes, notes)


def target_form(found: Opened, layout: Layout, options: Options, dtype: str | None = None) -> Form:
    """The form that ``layout`` writes, checked key by key and shape by shape, with its ModelScope configuration."""
    family = found.family
    if layout.name not in family.layouts:
        raise RequestError(f"{family.name} has no {layout.name} layout, only {listing(family.layouts)}; choose one of "
                           "them.")
    form: Form
    if layout.side is Legacy:
        form = family.to_legacy(found.form, options)
    else:
        form = family.to_modern(found.form, options)
        form = replace(form, files={**form.files, "configuration.json": configuration(family.tasks[0])})
    return form if dtype is None else _cast(form, _dtype(dtype))


def configuration(task: str) -> bytes:
    """ModelScope's configuration.json. ``plugins`` or ``allow_remote`` in it would demand trust_remote_code."""
    return as_json({"framework": "pytorch", "task": task, "pipeline": {"type": "danqing"}})


def _layout(name: str) -> Layout:
    found = next((layout for layout in LAYOUTS if layout.name == name), None)
    if found is None:
        raise RequestError(f"There is no layout {name}; choose one of {listing([each.name for each in LAYOUTS])}.")
    return found


def _dtype(name: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise RequestError(f"There is no dtype {name}; choose one of {listing(sorted(DTYPES))}.")
    return DTYPES[name]


def _cast(form: Form, dtype: np.dtype[Any]) -> Form:
    def cast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: each.cast(dtype) if is_floating(each.dtype) else each for name, each in tensors.items()}

    if isinstance(form, Legacy):
        return replace(form, tensors=cast(form.tensors),
                       attachments={name: cast(tensors) for name, tensors in form.attachments.items()})
    return replace(
        form, unused=cast(form.unused),
        components={name: replace(part, tensors=cast(part.tensors)) for name, part in form.components.items()},
        attachments={name: replace(part, tensors=cast(part.tensors)) for name, part in form.attachments.items()})


def _notes(found: Opened, form: Form, options: Options) -> list[str]:
    notes = list(found.family.notes(found.form, options))
    if isinstance(form, Modern) and form.unused:
        notes.append(f"Kept {len(form.unused)} tensors without a modern home in legacy/unused.safetensors.")
    if options.drop_unused:
        notes.append(UNUSED_NOTE)
    if found.form.left:
        notes.append(f"Not carried over: {listing(found.form.left, 6)}.")
    return notes
