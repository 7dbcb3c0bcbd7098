"""The single file ``model.ckpt`` of 2023, weights in the layout of latent diffusion, and what belongs beside it.

A file of this kind holds no tokenizer, no scheduler and no sizes. A folder that Danqing writes therefore has them in
``config/``, a diffusers folder without the weights that are in the file::

    model.ckpt   vocab.txt   config/model_index.json   config/tokenizer/...   config/safety_checker/model.safetensors

so that ``from_single_file(".../model.ckpt", config=".../config")`` works. A file that lies in a diffusers folder, as on
the hubs, takes them from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .. import pickles
from ..json_files import read_json
from ..sides import Blob, Legacy
from ..tensors import Tensor, open_safetensors
from .diffusers import CONFIGS, INDEX, open_component
from .layout import WRAPPER, Contents, Layout, flat_state, relative_files

WEIGHTS = "model.ckpt"
CONFIG = "config"
VOCABULARY = "vocab.txt"
INSIDE = ("unet", "vae", "text_encoder")
"""Components whose weights are in the file; those of others lie in ``config/``."""
MARK = "model.diffusion_model."


def matches(path: Path) -> bool:
    """A file with a UNet in it, or a folder with one such file and no index."""
    if path.is_file():
        return path.suffix == ".ckpt" or path.suffix == ".safetensors" and _holds_unet(path)
    return (path / WEIGHTS).is_file() and not (path / INDEX).exists()


def _holds_unet(path: Path) -> bool:
    return any(name.startswith(MARK) for name in open_safetensors(path))


def files(path: Path) -> tuple[str, ...]:
    """The files that belong to the checkpoint, relative to the folder that holds the weights."""
    weights, folder = _weights(path), _weights(path).parent
    below = [folder / CONFIG] if (folder / CONFIG / INDEX).is_file() else [folder / name for name in _beside(folder)]
    small = [each for root in below for each in (root / name for name in relative_files(root))]
    own = [each for each in (folder / VOCABULARY, folder / "danqing.json") if each.is_file()]
    return tuple(sorted(each.relative_to(folder).as_posix() for each in [weights, *own, *small]))


def _weights(path: Path) -> Path:
    return path if path.is_file() else path / WEIGHTS


def _beside(folder: Path) -> list[str]:
    """Folders of a diffusers folder that say what a file in it leaves open."""
    if not (folder / INDEX).is_file():
        return []
    index = read_json(folder / INDEX)
    return sorted(name for name in index if (folder / name).is_dir() and name not in INSIDE)


def open_path(path: Path) -> Legacy:
    """Read names, dtypes and shapes; no tensor data is touched.

    Raises:
        FormatError: the file holds no flat state dict.
    """
    weights = _weights(path)
    state, wrapper = _state(weights)
    folder = weights.parent
    root = folder / CONFIG if (folder / CONFIG / INDEX).is_file() else folder
    blobs: dict[str, Blob] = {}
    attachments: dict[str, Mapping[str, Tensor]] = {}
    if (root / INDEX).is_file():
        index = read_json(root / INDEX)
        blobs[f"{CONFIG}/{INDEX}"] = root / INDEX
        for name, entry in index.items():
            if isinstance(entry, list) and (root / name).is_dir():
                blobs |= _small_files(root / name, f"{CONFIG}/{name}")
                part = None if name in INSIDE else open_component(root / name, *entry)
                if part is not None and part.tensors:
                    attachments[attached(name)] = part.tensors
    if (folder / VOCABULARY).is_file():
        blobs[VOCABULARY] = folder / VOCABULARY
    manifest = read_json(folder / "danqing.json") if path.is_dir() and (folder / "danqing.json").is_file() else {}
    return Legacy({}, state, blobs, attachments, wrapper, manifest)


def attached(name: str) -> str:
    """Where the weights of a component lie that the file has no room for."""
    return f"{CONFIG}/{name}/model.safetensors"


def _small_files(folder: Path, name: str) -> dict[str, Blob]:
    """The config and the small files of a component's folder, under ``name``."""
    config = next((each for each in CONFIGS if (folder / each).is_file()), None)
    part = {each: folder / each for each in relative_files(folder) if "." in each and not each.endswith(
        (".bin", ".safetensors", ".index.json", ".msgpack", ".h5", ".onnx"))}
    if config is not None:
        part[config] = folder / config
    return {f"{name}/{each}": path for each, path in part.items()}


def _state(path: Path) -> tuple[Mapping[str, Tensor], str]:
    if path.suffix == ".safetensors":
        return open_safetensors(path), ""
    return flat_state(pickles.load(path), path)


def contents(form: Legacy) -> Contents:
    """The files of a checkpoint."""
    carried = {name: blob for name, blob in form.files.items() if name == VOCABULARY or name.startswith(f"{CONFIG}/")}
    return Contents(carried, {**form.attachments, WEIGHTS: form.tensors}, WRAPPER)


SINGLE_FILE = Layout("single-file", Legacy, WEIGHTS, matches, open_path, files, contents)
