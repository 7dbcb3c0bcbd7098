"""Everything a caller may add to a stock pipeline when it is loaded, in the one order that works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing_pack.errors import FormatError, RequestError

Place = str | Path
LoraOption = Place | tuple[Place, float]


@dataclass(frozen=True)
class Equipment:
    """What to add: a scheduler's name, LoRAs with their scales, embedding files, a ControlNet."""

    scheduler: str | None = None
    lora: Sequence[LoraOption] = ()
    embeddings: Sequence[Place] = ()
    controlnet: Place | None = None

    def named(self) -> list[str]:
        """The options that were given."""
        return [name for name in ("scheduler", "lora", "embeddings", "controlnet") if getattr(self, name)]


def settle(pipe: Any) -> None:
    """Mend what a folder of 2023 leaves open: where its scheduler ends, and how many tokens its tokenizer gives.

    Raises ``FormatError`` for a tokenizer that has more words than the text encoder.
    """
    from danqing.adapters.schedulers import faithful

    pipe.scheduler = faithful(pipe.scheduler)
    positions = getattr(pipe.text_encoder.config, "max_position_embeddings", None)
    if positions is not None and pipe.tokenizer.model_max_length > positions:
        pipe.tokenizer.model_max_length = positions
    table = getattr(pipe.text_encoder, "get_input_embeddings", lambda: None)()
    rows = getattr(table, "num_embeddings", None)
    if rows is not None and len(pipe.tokenizer) > rows:
        raise FormatError(f"The tokenizer has {len(pipe.tokenizer)} words and the text encoder {rows} embeddings; they "
                          "belong to different checkpoints.")


def equip(pipe: Any, equipment: Equipment) -> Any:
    """``pipe`` with ``equipment``; with a ControlNet it is the stock ControlNet pipeline over the same components.

    Raises ``RequestError`` where the pipeline has no place for it, and what the parts raise.
    """
    if not hasattr(pipe, "unet"):
        if equipment.named():
            raise RequestError(f"This model takes no {', '.join(equipment.named())}; only diffusion models do.")
        return pipe
    settle(pipe)
    if equipment.scheduler is not None:
        from danqing.adapters.schedulers import make_scheduler

        pipe.scheduler = make_scheduler(equipment.scheduler, pipe.scheduler.config)
    if equipment.embeddings:
        from danqing.adapters.textual_inversion import add_embeddings

        add_embeddings(pipe, [_place(path) for path in equipment.embeddings])
    if equipment.lora:
        from danqing.adapters.lora import apply_loras

        apply_loras(pipe, [_scaled(option) for option in equipment.lora])
    return pipe if equipment.controlnet is None else _steered(pipe, equipment.controlnet)


def _steered(pipe: Any, path: Place) -> Any:
    from danqing.adapters.controlnet import check_controlnet, load_controlnet
    from danqing.adapters.variants import variant

    place = _place(path)
    controlnet = load_controlnet(place, pipe.unet.dtype, pipe.device)
    check_controlnet(controlnet, pipe.unet, place)
    return variant(pipe, controlnet=controlnet)


def _scaled(option: LoraOption) -> tuple[Path, float]:
    """A path alone means scale 1."""
    path, scale = option if isinstance(option, (tuple, list)) else (option, 1.0)
    return _place(path), float(scale)


def _place(path: Place) -> Path:
    """Where it lies; a hub's repository by its prefix is fetched."""
    from danqing.places import find_model

    return find_model(path)
