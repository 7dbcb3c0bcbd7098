"""A painter that runs without Danqing: a diffusers folder that brings its own pipeline and transformer as code.

    write_self_contained("painter", "painter-alone")
    DiffusionPipeline.from_pretrained("painter-alone", trust_remote_code=True)("宽松T恤")     # the same pictures

Weights, configs and vocabulary are those of the converted folder, byte for byte; ``model_index.json`` names the classes
in ``pipeline.py`` and ``transformer/painter_transformer.py``. diffusers loads such a folder only with
``trust_remote_code=True``: it is a variant to publish beside the plain folder, never what a conversion writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from danqing_pack import manifests
from danqing_pack.conversion import Conversion
from danqing_pack.detection import opened
from danqing_pack.errors import RequestError
from danqing_pack.family import Options, dimensions_json
from danqing_pack.json_files import as_json, read_json
from danqing_pack.layouts.diffusers import INDEX, contents
from danqing_pack.layouts.layout import write_blob
from danqing_pack.sides import Modern
from danqing_pack.staging import CHECKPOINT, staged_folder
from danqing_pack.tensors import sha256_of

PIPELINE, TRANSFORMER = "pipeline", "painter_transformer"
NEEDLESS = ("config.json", "configuration.json")
"""What tells transformers and ModelScope to look for Danqing."""


def write_self_contained(
    source: str | Path, target: str | Path, *, force: bool = False, text_length: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Write the painter at ``source`` (a folder of any layout, or a bundle) to ``target`` with the code that runs it.

    Raises:
        RequestError: the checkpoint is no painter, or the target exists.
        FormatError, ConversionError, UnsafeError: what lies at ``source`` cannot be read.
    """
    options = Options(text_length=text_length, drop_unused=True)
    with opened(source) as found:
        if found.family.name != "painter":
            raise RequestError(
                f"{source} is a {found.family.name}; only a painter needs code of its own, "
                + ("and a stock StableDiffusionPipeline runs without any: push it without --self-contained."
                   if found.family.name == "pai-diffusion" else "and there is none for this family: push it without "
                   "--self-contained."), family=found.family.name)
        form = with_code(found.family.to_modern(found.form, options))
        size = dimensions_json(found.family.dimensions(found.form, options))
        with staged_folder(target, force=force, sources=[source], marks=CHECKPOINT) as folder:
            digests = contents(form).write(folder, progress)
            digests[INDEX] = _name_code(folder)
            sources = {name: sha256_of(found.folder / name) for name in found.names}
            manifests.write(folder, family=found.family.name, layout="diffusers", dimensions=size, files=digests,
                            source={"layout": found.layout.name, "files": sources})
            sizes = {name: (folder / name).stat().st_size for name in sorted([*digests, manifests.NAME])}
    return Conversion(Path(target), found.family.name, "diffusers", sizes, ())


def with_code(form: Modern) -> Modern:
    """A painter with the code beside what it runs."""
    transformer = form.components["transformer"]
    brings = replace(transformer, library=TRANSFORMER, files={**transformer.files, f"{TRANSFORMER}.py": source_of(TRANSFORMER)})
    kept = {name: blob for name, blob in form.files.items() if name not in NEEDLESS and not name.startswith("legacy/")}
    return replace(form, components={**form.components, "transformer": brings}, unused={}, remade=None,
                   files={**kept, f"{PIPELINE}.py": source_of(PIPELINE)})


def source_of(module: str) -> bytes:
    """The text of one of the modules that a self-contained painter brings."""
    return (files("danqing.publishing.painter") / f"{module}.py").read_bytes()


def _name_code(folder: Path) -> str:
    """Have the index name the pipeline's module; a list there is what makes diffusers look for one. Its new sha256."""
    index: dict[str, Any] = read_json(folder / INDEX)
    return write_blob(folder, INDEX, as_json({**index, "_class_name": [PIPELINE, index["_class_name"]]}))
