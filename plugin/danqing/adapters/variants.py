"""The stock pipeline for what the caller brings: an image, a mask, a ControlNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing_pack.errors import FormatError, RequestError

from danqing.quiet import quiet_libraries

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_ATTRIBUTES = ("danqing_family", "danqing_source")
"""What ``danqing.load`` writes on a pipeline."""
CLASS_NAMES = {
    # (image, mask, ControlNet)
    (False, False, False): "StableDiffusionPipeline",
    (True, False, False): "StableDiffusionImg2ImgPipeline",
    (True, True, False): "StableDiffusionInpaintPipeline",
    (False, False, True): "StableDiffusionControlNetPipeline",
    (True, False, True): "StableDiffusionControlNetImg2ImgPipeline",
    (True, True, True): "StableDiffusionControlNetInpaintPipeline",
}


def variant(pipe: Any, image: bool = False, mask: bool = False, controlnet: Any = None) -> Any:
    """A stock pipeline over the same components that takes an image, a mask or a control image.

    A ControlNet that ``pipe`` already has is kept. ``pipe`` itself comes back where it is the one asked for. Raises
    ``RequestError`` for a mask without an image.
    """
    import diffusers

    controlnet = controlnet if controlnet is not None else getattr(pipe, "controlnet", None)
    if mask and not image:
        raise RequestError("A mask says which part of an image to repaint; give the image as well.")
    kind: Any = getattr(diffusers, CLASS_NAMES[image, mask, controlnet is not None])
    if type(pipe) is kind and getattr(pipe, "controlnet", None) is controlnet:
        return pipe
    # from_pipe casts every component to float32 unless it is told a type.
    extra = {} if controlnet is None else {"controlnet": controlnet}
    with quiet_libraries():
        made = kind.from_pipe(pipe, dtype=pipe.unet.dtype, **extra)
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    for name in OWN_ATTRIBUTES:
        if hasattr(pipe, name):
            setattr(made, name, getattr(pipe, name))
    return made


def open_image(path: str | Path) -> Image:
    """An image file as RGB, turned upright as its camera says, transparent parts over white."""
    from PIL import Image as images
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(_open(path))
    if "A" not in upright.getbands() and "transparency" not in upright.info:
        return upright.convert("RGB")
    full = upright.convert("RGBA")
    return images.alpha_composite(images.new("RGBA", full.size, "white"), full).convert("RGB")


def open_mask(path: str | Path) -> Image:
    """A mask file as grey levels, white where to repaint; a mask drawn as transparency counts where it is opaque."""
    mask = _open(path)
    return mask.getchannel("A") if "A" in mask.getbands() and _uniform(mask) else mask.convert("L")


def fit_image(image: Image, width: int | None = None, height: int | None = None, multiple: int = 8) -> Image:
    """``image`` at this size, or at its own, cut down to what the autoencoder takes: a multiple of ``multiple``."""
    from PIL import Image as images

    wanted = (
        (width or image.width) // multiple * multiple,
        (height or image.height) // multiple * multiple,
    )
    if min(wanted) < multiple:
        raise RequestError(f"An image of {image.width} x {image.height} pixels is too small; {multiple} is the least.")
    return image if image.size == wanted else image.resize(wanted, images.Resampling.LANCZOS)


def _open(path: str | Path) -> Image:
    from PIL import Image as images
    from PIL import UnidentifiedImageError

    try:
        image = images.open(path)
        image.load()
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}; check the name.") from error
    except (OSError, UnidentifiedImageError) as error:
        raise FormatError(f"{path} cannot be read as an image; give a PNG or JPEG file.") from error
    return image


def _uniform(image: Image) -> bool:
    """Whether the colours under the transparency say nothing."""
    bands = image.convert("RGBA").getextrema()
    return all(low == high for low, high in bands[:3])  # type: ignore[misc]
