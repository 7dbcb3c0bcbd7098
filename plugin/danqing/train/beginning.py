"""Begins a run: what can be refused without torch is refused before the seconds that importing it takes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from danqing_pack.errors import FormatError, RequestError
from danqing_pack.examples import require_examples

from danqing.places import find_checkpoint, nearest_folder

from .journal import writing_into
from .options import LatentOptions, PainterOptions, VqganOptions

Options = PainterOptions | LatentOptions | VqganOptions


def train(options: Options) -> dict[str, float]:
    """Look, then run the recipe that `options` belong to; the last validation's (else training's) values."""
    require_possible(options)
    return run_recipe(options)


def run_recipe(options: Options) -> dict[str, float]:
    """The same for options that were looked at."""
    if isinstance(options, VqganOptions):
        from .vqgan import train_vqgan

        return train_vqgan(options)
    if isinstance(options, LatentOptions):
        from .latent import train_latent

        return train_latent(options)
    from .painter import train_painter

    return train_painter(options)


def require_possible(options: Options) -> None:
    """A moment's look at the tables, the output and the model. Raises FormatError, RequestError and HubError."""
    for table in filter(None, (options.data, options.validation)):
        require_examples(table, **options.reading)
    require_output(Path(options.output), options.loop.resume)
    if isinstance(options, PainterOptions):
        _require_painter(options)
    elif isinstance(options, LatentOptions):
        require_latent(options.model)
    else:
        _require_first_stage(options.model)


def require_output(output: Path, resume: bool) -> None:
    """RequestError for a folder that cannot be written, or holds a run that nobody wants to go on with."""
    if not resume and any((output / "checkpoints").glob("step-*")):
        raise RequestError(f"{output} already holds a training run; go on with --resume, or name another folder.")
    # Permissions do not tell of a read-only disk.
    with writing_into(output), tempfile.TemporaryFile(dir=nearest_folder(output)):
        pass


def require_latent(model: str) -> None:
    """FormatError for a model that is no chinese-ldm."""
    if find_checkpoint(model).family not in ("chinese-ldm", None):
        raise FormatError(f"{model} is no latent diffusion of EasyNLP: name a chinese-ldm checkpoint.", path=model)


def _require_painter(options: PainterOptions) -> None:
    place = Path(options.model)
    if not (place.is_file() and place.suffix == ".json"):
        if find_checkpoint(options.model, options.text_length).family not in ("painter", None):
            raise RequestError(f"{options.model} is no painter; name a painter checkpoint or a JSON file with its sizes.")
        return
    if options.first_stage is None or options.vocab is None:
        raise RequestError("A painter from scratch needs --first-stage (a trained VQGAN) and --vocab (vocab.txt).")
    if not Path(options.vocab).is_file():
        raise FormatError(f"There is no vocabulary {options.vocab}.", path=options.vocab)
    _require_first_stage(options.first_stage)


def _require_first_stage(model: str) -> None:
    place = Path(model)
    config = place / "config.json"
    if place.is_file() and place.suffix == ".json" or config.is_file() and _class_of(config) == "VQModel":
        return
    if find_checkpoint(model).family not in ("painter", None):
        raise RequestError(f"{model} holds no VQGAN; name a painter checkpoint, a VQModel folder or its config as JSON.")


def _class_of(config: Path) -> Any:
    try:
        tree = json.loads(config.read_text("utf-8"))
    except ValueError:
        return None
    return tree.get("_class_name") if isinstance(tree, dict) else None
