"""What a folder shows of its model, as the words of a model card: networks, sizes, files, digests, pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from . import manifests
from .card_code import Example
from .detection import open_folder
from .errors import CardError
from .family import Options
from .sides import Modern
from .tensors import sha256_of

WEIGHTS = (".safetensors", ".bin", ".pth", ".ckpt", ".pt")
EXAMPLES = "example-*.png"
"""The pictures that a card shows, in the order of their names."""
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


@dataclass(frozen=True)
class Picture:
    """An example picture: its file, its prompt and seed, and what else was written into it when it was drawn."""

    file: str
    example: Example
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All that a card says of a folder. ``sources`` and ``files`` are sha256 by relative name."""

    folder: Path
    family: str
    tasks: tuple[str, ...]
    layout: str
    dimensions: Any
    form: Modern
    parameters: Mapping[str, int]
    """Of each network."""
    dtypes: tuple[str, ...]
    sizes: Mapping[str, int]
    """Bytes of every file of the checkpoint."""
    files: Mapping[str, str]
    source_layout: str | None
    sources: Mapping[str, str]
    pictures: tuple[Picture, ...]

    @property
    def unnamed(self) -> bool:
        """Whether the folder has no configuration.json, by which ModelScope finds the pipeline of a model."""
        return not (self.folder / "configuration.json").is_file()

    @property
    def characters(self) -> frozenset[str]:
        """The single characters in the vocabulary; none where there is no vocab.txt."""
        tokenizer = self.form.components.get("tokenizer")
        vocabulary = tokenizer.files.get("vocab.txt") if tokenizer is not None else None
        if vocabulary is None:
            return frozenset()
        data = vocabulary if isinstance(vocabulary, bytes) else vocabulary.read_bytes()
        return frozenset(line for line in data.decode("utf-8", "replace").split("\n") if len(line) == 1)

    @property
    def own_code(self) -> bool:
        """Whether the folder brings its own pipeline, as ``danqing push --self-contained`` writes it."""
        return (self.folder / "pipeline.py").is_file()

    def dimension(self, path: str) -> Any:
        """A dimension by its dotted path, None where the family has no such thing."""
        found = self.dimensions
        for name in path.split("."):
            found = getattr(found, name, None)
        return found

    @property
    def image_size(self) -> int | None:
        """Side of a picture in pixels where a call names none."""
        stated = self.dimension("image_size")
        if stated is None and self.dimension("unet") is not None:
            return int(self.dimension("unet.sample_size") * self.dimension("vae.factor"))
        return None if stated is None else int(stated)


def read_facts(folder: str | Path, text_length: int | None = None, pictures: Path | None = None) -> Facts:
    """Look at a checkpoint folder; headers and small files only, unless there is no danqing.json to take digests from.

    ``pictures``: where the example pictures lie, the folder itself by default.

    Raises:
        FormatError, ConversionError, UnsafeError: what lies there is no checkpoint, or no whole one.
        CardError: it is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CardError(f"{folder} is no folder, and a card stands in one; unpack a bundle first with `danqing unpack`.")
    found, options = open_folder(folder), Options(text_length=text_length)
    form = found.family.to_modern(found.form, options)
    manifest = manifests.read(folder)
    files = dict(manifest.get("files") or {name: sha256_of(folder / name) for name in found.names if _is_weights(name)})
    source = manifest.get("source") or {}
    return Facts(
        folder, found.family.name, found.family.tasks, found.layout.name,
        found.family.dimensions(found.form, options), form, _parameters(form), _dtypes(form),
        {name: (folder / name).stat().st_size for name in found.names}, files, source.get("layout"),
        dict(source.get("files") or {}), read_pictures(pictures or folder, fingerprint(files)))


def _parameters(form: Modern) -> dict[str, int]:
    return {name: sum(prod(tensor.shape) for tensor in part.tensors.values())
            for name, part in form.folders.items() if part.tensors}


def _dtypes(form: Modern) -> tuple[str, ...]:
    """Of the weights, the most frequent first; whole numbers are no weights."""
    counts: dict[str, int] = {}
    for part in form.folders.values():
        for tensor in part.tensors.values():
            if (name := PRECISIONS.get(tensor.dtype.name)) is not None:
                counts[name] = counts.get(name, 0) + prod(tensor.shape)
    return tuple(sorted(counts, key=lambda name: -counts[name]))


def _is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS)


def weight_files(digests: Mapping[str, str]) -> dict[str, str]:
    """Those of the files that hold weights; all of them where none does."""
    return {name: digest for name, digest in sorted(digests.items()) if _is_weights(name)} or dict(sorted(digests.items()))


def fingerprint(digests: Mapping[str, str]) -> str:
    """Sixteen hex digits that stand for all weights: what an example picture remembers of its model."""
    listed = "".join(f"{digest} {name}\n" for name, digest in weight_files(digests).items())
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def read_pictures(folder: Path, weights: str) -> tuple[Picture, ...]:
    """The example pictures of a folder that say what they were drawn from: ``prompt`` and ``seed`` in their PNG text.

    Those that other weights drew are passed over: a card shows nothing that its model did not draw.
    """
    found = []
    for path in sorted(folder.glob(EXAMPLES), key=lambda path: (len(path.name), path.name)):
        words = _png_words(path)
        seed = words.pop("seed", "")
        if "prompt" in words and seed.isdigit() and words.get("weights", weights) == weights:
            prompt = words.pop("prompt")
            found.append(Picture(path.name, Example(prompt, int(seed)), words))
    return tuple(found)


def free_names(folder: Path, count: int) -> list[str]:
    """Names for new example pictures: those of earlier ones, and never that of a picture that somebody else put there."""
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        path = folder / EXAMPLES.replace("*", str(number))
        if not path.exists() or "weights" in _png_words(path):
            names.append(path.name)
    return names


def _png_words(path: Path) -> dict[str, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            return {str(name): str(value) for name, value in getattr(image, "text", {}).items()}
    except (OSError, UnidentifiedImageError) as error:
        raise CardError(f"{path} cannot be read as a picture; draw it anew with `danqing card`, or remove it.") from error
