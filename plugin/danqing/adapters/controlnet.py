"""ControlNets and the images that steer them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from danqing_pack.errors import ConversionError, FormatError

from danqing.adapters.edges import canny
from danqing.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel
    from PIL.Image import Image

SHARED = ("cross_attention_dim", "block_out_channels", "layers_per_block", "down_block_types", "in_channels")
"""What a ControlNet must have in common with its UNet, because its residuals are added there."""


def load_controlnet(path: str | Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> ControlNetModel:
    """The ControlNet of a folder (``config.json`` and weights), in this dtype whatever the file holds.

    Raises ``FormatError`` for a folder that is no ControlNet.
    """
    import json

    from diffusers import ControlNetModel

    folder = Path(path)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("_class_name") if isinstance(config, dict) else None
    except (OSError, ValueError):
        kind = None
    if kind != "ControlNetModel":
        raise FormatError(f"{folder} is no ControlNet folder; it needs a config.json of the class ControlNetModel.")
    safe = any(folder.glob("*.safetensors"))
    with quiet_libraries():
        model: Any = ControlNetModel.from_pretrained(folder, dtype=dtype, use_safetensors=safe)
    placed: ControlNetModel = model.to(device)
    return placed


def check_controlnet(controlnet: Any, unet: Any, place: str | Path) -> None:
    """Raise ``ConversionError`` where the ControlNet at ``place`` was trained for another UNet."""
    differing = [
        f"{name} {_plain(controlnet.config[name])} instead of {_plain(unet.config[name])}"
        for name in SHARED if _plain(controlnet.config[name]) != _plain(unet.config[name])
    ]
    if differing:
        raise ConversionError(
            f"The ControlNet {place} was made for another model: {', '.join(differing)}.", problems=differing
        )


def control_image(image: Image, width: int, height: int, edges: bool = False) -> Image:
    """``image`` as a ControlNet reads it: RGB, ``width`` x ``height`` pixels.

    With ``edges`` it is a photograph and becomes its edge map, at the size of the output so that lines stay one pixel
    wide; without, it is a map already, and is enlarged without blurring.
    """
    from PIL import Image as images

    wanted = (width, height)
    if not edges:
        return _opaque(image).resize(wanted, images.Resampling.NEAREST if _is_map(image) else images.Resampling.LANCZOS)
    photograph = _opaque(image).resize(wanted, images.Resampling.LANCZOS)
    return images.fromarray(canny(np.asarray(photograph))).convert("RGB")


def _is_map(image: Image) -> bool:
    """Whether an image holds black and white alone, as an edge map does."""
    return set(np.unique(np.asarray(image.convert("L")))) <= {0, 255}


def _opaque(image: Image) -> Image:
    """RGB over black where the image is transparent."""
    from PIL import Image as images

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    full = image.convert("RGBA")
    return images.alpha_composite(images.new("RGBA", full.size, "black"), full).convert("RGB")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
