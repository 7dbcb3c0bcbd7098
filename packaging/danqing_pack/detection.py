"""From a path to what lies there: layout, family, dimensions."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from .errors import ConversionError, FormatError, UnsafeError, listing
from .families import FAMILIES
from .family import Family, Form, Options, dimensions_json
from .layouts import LAYOUTS, Layout
from .sides import Legacy
from .tensors import Tensor


@dataclass(frozen=True)
class Opened:
    """A checkpoint that lies open: a folder, its layout, its neutral form, its family, and the files that belong to it."""

    folder: Path
    layout: Layout
    form: Form
    family: Family
    names: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What ``detect`` says of a path. Sizes in parameters and bytes; ``dtypes`` counts tensors."""

    path: Path
    layout: str
    """The layout of the path itself: ``eas`` for a bundle."""
    flavor: str
    """The layout of the folder: that of ``path``, or the one inside the bundle."""
    family: str
    dimensions: Any
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    left: tuple[str, ...] = field(default=())

    def describe(self) -> str:
        """One line: family, layout, size, dimensions."""
        layout = f"eas bundle of {_an(self.flavor)} folder" if self.layout == "eas" else f"{self.layout} layout"
        return (f"{self.family}, {layout}, {_count(self.parameters)} parameters, {self.dimensions.describe()}, "
                f"{'/'.join(sorted(self.dtypes))}")

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, for ``--json``; without the path."""
        return {
            "family": self.family, "layout": self.layout, "flavor": self.flavor, "parameters": self.parameters,
            "bytes": self.bytes, "dtypes": self.dtypes, "dimensions": dimensions_json(self.dimensions),
            "not_carried": list(self.left),
        }


def detect(path: str | Path, text_length: int | None = None) -> Found:
    """Say what lies at ``path``: a checkpoint folder of any layout, or a bundle.

    Reads names, dtypes, shapes and small files only; a bundle is unpacked to a temporary folder for it.

    Raises:
        FormatError: nothing is there, no layout or family fits, several fit, or a file is damaged.
        UnsafeError: a pickle or an archive asks for more than data.
    """
    path = Path(path)
    options = Options(text_length=text_length)
    with opened(path) as found:
        tensors = list(_tensors(found.form))
        weights = _weights(found, options)
        return Found(
            path=path, layout=found.layout.name if found.folder in (path, path.parent) else "eas", flavor=found.layout.name,
            family=found.family.name, dimensions=found.family.dimensions(found.form, options),
            parameters=sum(prod(tensor.shape) for tensor in weights), bytes=sum(tensor.nbytes for tensor in tensors),
            dtypes=dict(sorted(Counter(tensor.dtype.name for tensor in tensors).items())), left=found.form.left,
        )


@contextmanager
def opened(path: str | Path) -> Iterator[Opened]:
    """A checkpoint lying open for as long as the block lasts; a bundle is unpacked beside the temporary files.

    What is wrong with it is said of ``path``, also where the sentence comes from the block.
    """
    path = Path(path)
    with _said_of(path):
        yield from _opened(path)


@contextmanager
def _said_of(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Have every problem of a checkpoint name it: in front, or in place of the folder that it was unpacked to."""
    try:
        yield
    except (FormatError, ConversionError, UnsafeError) as error:
        text = str(error)
        named = text.replace(str(instead_of), str(path)) if instead_of else text
        if not re.search(rf"(?<![\w./-]){re.escape(str(path))}(?![\w-])", named):
            named = f"{path}: {named}"
        if named == text:
            raise
        raise type(error)(named, **error.data) from error


def _opened(path: Path) -> Iterator[Opened]:
    if path.is_dir():
        yield open_folder(path)
        return
    if not path.exists():
        raise FormatError(f"There is nothing at {path}; check the name.", path=path)
    if any(layout.matches(path) for layout in LAYOUTS):
        yield open_folder(path)
        return
    from .eas import unpack

    with tempfile.TemporaryDirectory(prefix="danqing-") as scratch:
        folder = Path(scratch) / "model"
        unpack(path, folder)
        with _said_of(path, instead_of=folder):
            yield open_folder(folder)


def open_folder(path: Path) -> Opened:
    """Find layout and family of a folder and open it."""
    layout = find_layout(path)
    form = layout.open(path)
    names = layout.files(path)
    return Opened(path if path.is_dir() else path.parent, layout, form, find_family(form, path), names)


def find_layout(path: Path) -> Layout:
    """The one layout whose marks a folder carries."""
    fitting = [layout for layout in LAYOUTS if layout.matches(path)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise FormatError(f"{path} carries the marks of several layouts: {listing([each.name for each in fitting])}; keep "
                          "one checkpoint per folder.", path=path)
    here = sorted(each.name for each in path.iterdir()) or ["nothing"]
    raise FormatError(
        f"{path} is no checkpoint that Danqing knows: it holds {listing(here, 6)}, and a checkpoint shows "
        f"{' or '.join(layout.marks for layout in LAYOUTS)}; name the folder that holds these files.", path=path)


def find_family(form: Form, path: Path) -> Family:
    """The one family whose signature a form shows."""
    fitting = [family for family in FAMILIES if family.signature.matches(form)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise FormatError(f"{path} shows the marks of several families: {listing([each.name for each in fitting])}; keep "
                          "one checkpoint per folder.", path=path)
    if isinstance(form, Legacy):
        shown = f"tensors such as {listing(sorted(form.tensors), 3)}"
    else:
        shown = f"{form.class_name or 'no class'} of {listing(sorted(form.components), 8) or 'no components'}"
    raise FormatError(f"{path} belongs to no family that Danqing knows: it holds {shown}; `danqing families` lists those "
                      "it knows.", path=path)


def _tensors(form: Form) -> Iterator[Tensor]:
    if isinstance(form, Legacy):
        yield from form.tensors.values()
        return
    for part in form.folders.values():
        yield from part.tensors.values()


def _weights(found: Opened, options: Options) -> list[Tensor]:
    """The tensors that the networks compute with: buffers are none, where the checkpoint is whole enough to tell."""
    try:
        return list(_tensors(found.family.to_modern(found.form, options)))
    except (ConversionError, FormatError):
        return list(_tensors(found.form))


def _count(number: int) -> str:
    """A number of parameters as people say it."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
