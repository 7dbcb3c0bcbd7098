"""The diffusers folder: ``model_index.json`` and a subfolder for each component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import manifests, pickles
from ..errors import FormatError, listing
from ..json_files import as_json, read_json
from ..sides import Blob, Component, Modern
from ..tensors import Tensor, open_safetensors
from .layout import Contents, Layout, flat_state, relative_files

INDEX = "model_index.json"
UNUSED = "legacy/unused.safetensors"
FORM = "0.42.0"
"""The diffusers whose form of a folder is written, whatever is installed; its inpainting pipelines insist on an entry."""
CONFIGS = ("config.json", "scheduler_config.json")
SAFE = ("diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors")
PICKLED = ("diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.fp16.bin",
           "pytorch_model.fp16.bin")
OWN = ("danqing.json", "configuration.json", INDEX)


def matches(path: Path) -> bool:
    """A folder with an index."""
    return (path / INDEX).is_file()


def files(path: Path) -> tuple[str, ...]:
    """The files that belong to the checkpoint: all of them but what another tool left at the root."""
    index = read_json(path / INDEX)
    return tuple(name for name in relative_files(path) if "/" not in name and name.endswith(".json")
                 or _of_component(path, name, index) or name.startswith("legacy/"))


def _of_component(path: Path, name: str, index: Mapping[str, Any]) -> bool:
    folder = name.partition("/")[0]
    return "/" in name and (folder in index or (path / folder / "config.json").is_file())


def open_folder(path: Path) -> Modern:
    """Read every component's config, names, dtypes and shapes; no tensor data is touched."""
    index = read_json(path / INDEX)
    entries = {name: value for name, value in index.items()
               if isinstance(value, list) and len(value) == 2 and not name.startswith("_")}
    settings = {name: value for name, value in index.items()
                if not name.startswith("_") and name not in entries}
    components = {name: open_component(path / name, *entry) for name, entry in entries.items() if entry[1] is not None}
    settings |= {name: entry for name, entry in entries.items() if entry[1] is None}
    attachments = {
        each.name: open_component(each, "danqing.components", read_json(each / "config.json").get("_class_name", ""))
        for each in sorted(path.iterdir())
        if each.is_dir() and each.name not in entries and each.name != "legacy" and (each / "config.json").is_file()
    }
    unused = open_safetensors(path / UNUSED) if (path / UNUSED).is_file() else {}
    manifest = manifests.read(path)
    blobs: dict[str, Blob] = {
        name: path / name for name in relative_files(path)
        if name == "config.json" or name.startswith("legacy/") and name != UNUSED}
    known = {*blobs, UNUSED, *OWN}
    left = tuple(name for name in relative_files(path) if name not in known
                 and name.partition("/")[0] not in {*components, *attachments})
    return Modern(str(index.get("_class_name", "")), components, attachments, settings, blobs, unused,
                  manifest.get("remade"), manifest, left)


def open_component(path: Path, library: str, class_name: str) -> Component:
    """One component's folder."""
    if not path.is_dir():
        raise FormatError(f"{INDEX} in {path.parent} names {path.name}, and there is no such folder; fetch the whole "
                          "repository.", path=path)
    names = tuple(relative_files(path))
    config = next((name for name in CONFIGS if name in names), None)
    weights, read = _weights(path, names)
    settings = read_json(path / config) if config else None
    if settings is not None and not weights and not class_name.endswith("Scheduler") and {
            "_class_name", "architectures"} & settings.keys():
        raise FormatError(f"{path.name}/ in {path.parent} has a configuration and no weights file; fetch it.", path=path)
    blobs: dict[str, Blob] = {name: path / name for name in names
                              if name != config and name not in read and not name.endswith(_WEIGHT_ENDINGS)}
    return Component(library, class_name, settings, weights, blobs)


_WEIGHT_ENDINGS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json", ".msgpack", ".h5", ".onnx")


def _weights(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a component and the files they lie in: safetensors before pickles, whole files before shards."""
    for name in SAFE:
        if name in names:
            return dict(open_safetensors(path / name)), (name,)
    sharded = [name for name in names if name.endswith(".index.json")]
    for index in sorted(sharded, key=lambda name: ".safetensors" not in name):
        return _shards(path, index)
    for name in PICKLED:
        if name in names:
            return _pickled(path / name), (name,)
    return {}, ()


def _shards(path: Path, index: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    where = read_json(path / index).get("weight_map") or {}
    shards = sorted(set(where.values()))
    missing = [name for name in shards if "/" in name or not (path / name).is_file()]
    if missing:
        raise FormatError(f"{index} in {path} names shards that are not there: {listing(missing)}; fetch them.",
                          path=path, missing=missing)
    tensors: dict[str, Tensor] = {}
    for name in shards:
        tensors |= open_safetensors(path / name) if name.endswith(".safetensors") else _pickled(path / name)
    return tensors, (index, *shards)


def _pickled(path: Path) -> dict[str, Tensor]:
    return flat_state(pickles.load(path), path)[0]


def contents(form: Modern) -> Contents:
    """The files of a modern form."""
    weights = {f"{name}/{weights_name(part)}": part.tensors for name, part in form.folders.items() if part.tensors}
    return Contents(small_files(form), {**weights, UNUSED: form.unused} if form.unused else weights)


def small_files(form: Modern) -> dict[str, Blob]:
    """Everything but weights."""
    index: dict[str, Any] = {"_class_name": form.class_name, "_diffusers_version": FORM, **form.settings}
    index |= {name: [part.library, part.class_name] for name, part in form.components.items()}
    small: dict[str, Blob] = {INDEX: as_json(index), **form.files}
    for name, part in form.folders.items():
        small |= {f"{name}/{each}": blob for each, blob in part.files.items()}
        if part.config is not None:
            config = "scheduler_config.json" if part.class_name.endswith("Scheduler") else "config.json"
            small[f"{name}/{config}"] = as_json(part.config)
    return small


def weights_name(part: Component) -> str:
    """diffusers models say ``_class_name`` in their config, transformers models do not."""
    return "diffusion_pytorch_model.safetensors" if "_class_name" in (part.config or {}) else "model.safetensors"


DIFFUSERS = Layout("diffusers", Modern, INDEX, matches, open_folder, files, contents)
