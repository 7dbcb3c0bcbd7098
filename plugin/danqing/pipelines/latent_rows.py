"""What EasyNLP's latent diffusion handed back: one row for each image.

The predictor and ``pipeline("chinese-ldm-general")`` gave ``{idx, text, gen_imgbase64, image_tensor}``:
``gen_imgbase64`` is a PNG in standard base64 as *bytes*, ``image_tensor`` holds all images of one iteration,
[n_samples, 3, H, W] in [0, 1]. The pipeline counts ``idx`` along the list of texts, the predictor passes it through.

Both take EasyNLP's parameters, as numbers or as the words of its command line: ``n_samples`` images at once and
``n_iter`` times over, guidance ``scale``, ``H`` and ``W`` in pixels, ``ddim_steps``, ``ddim_eta`` (0 and nothing else),
``do_sr`` (upscale; it also listens to the word ``True``, which the original's command line did not). ``seed=S`` draws
image k of the call from S + k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from danqing_pack.errors import RequestError, listing
from PIL.Image import Image
from torch import Tensor

from danqing.images import to_base64, to_pil

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

Row = dict[str, Any]
DEFAULTS: dict[str, Any] = {
    "n_samples": 4, "n_iter": 1, "scale": 5.0, "H": 256, "W": 256, "ddim_steps": 20, "ddim_eta": 0.0, "do_sr": False,
}
DRAWING = ("generator", "latents", "negative_prompt", "callback_on_step_end")
"""Keywords of the pipeline's call that pass through."""
WORDS = {"true": True, "1": True, "false": False, "0": False, "none": False, "": False}


@dataclass(frozen=True)
class Settings:
    """EasyNLP's parameters, checked; sizes in pixels."""

    n_samples: int
    n_iter: int
    scale: float
    height: int
    width: int
    steps: int
    upscale: bool
    seed: int | None
    drawing: Mapping[str, Any]


def pipeline_rows(pipe: StableDiffusionPipeline, texts: Sequence[str], **parameters: Any) -> list[Row]:
    """``n_samples`` x ``n_iter`` rows for each text, in the order of the texts.

    ``parameters`` may stand in a dict ``pipeline_params``, as EasyNLP had them, or by themselves.

    Raises:
        RequestError: a parameter that is unknown or that the model cannot follow.
    """
    return predictor_rows(pipe, [{"idx": index, "text": text} for index, text in enumerate(texts)], **parameters)


def predictor_rows(
    pipe: StableDiffusionPipeline, records: Sequence[Mapping[str, Any]], text_column: str = "text", **parameters: Any
) -> list[Row]:
    """``n_samples`` x ``n_iter`` rows for each record; ``idx`` and the text pass through.

    Raises:
        RequestError: as ``pipeline_rows``.
    """
    nested = parameters.pop("pipeline_params", None) or {}
    if not isinstance(nested, Mapping):
        raise RequestError(f"pipeline_params must be a dict of parameters, not {nested!r:.80}.")
    settings = read_parameters(pipe, {**nested, **parameters})
    upscale = _upscaler(pipe) if settings.upscale else None
    rows: list[Row] = []
    for record in records:
        text = record[text_column]
        for drawn in _iterations(pipe, text, settings, before=len(rows)):
            images = upscale(drawn) if upscale else drawn
            rows += [{"idx": record["idx"], "text": text, "gen_imgbase64": to_base64(picture).encode(),
                      "image_tensor": images} for picture in _pictures(images)]
    return rows


def read_parameters(pipe: StableDiffusionPipeline, parameters: Mapping[str, Any]) -> Settings:
    """EasyNLP's parameters with its defaults.

    Raises:
        RequestError: one that is unknown, malformed, or out of the model's reach.
    """
    unknown = sorted(parameters.keys() - {*DEFAULTS, *DRAWING, "seed"})
    if unknown:
        raise RequestError(f"The model takes no parameter {listing(unknown)}; it takes "
                           f"{listing(['seed', *DEFAULTS, *DRAWING], 20)}.", unknown=unknown)
    given = {**DEFAULTS, **parameters}
    if given.get("seed") is not None and given.get("generator") is not None:
        raise RequestError("seed and generator exclude each other: give one of them.")
    if (eta := _number("ddim_eta", given["ddim_eta"], float)) != 0:
        raise RequestError(f"ddim_eta is {eta}, and PLMS draws no noise on the way: only 0 can be sampled.")
    scale = _number("scale", given["scale"], float)
    if scale < 1:
        raise RequestError(f"scale {scale} is below 1, where stock pipelines leave guidance out; give at least 1.")
    for name in ("H", "W"):
        if (size := _number(name, given[name], int)) % pipe.vae_scale_factor or size < 1:
            raise RequestError(f"{name} {size} is no multiple of {pipe.vae_scale_factor}, the pixels of a latent.")
    seed = given.get("seed")
    return Settings(
        n_samples=_at_least_one("n_samples", given["n_samples"]), n_iter=_at_least_one("n_iter", given["n_iter"]),
        scale=scale, height=int(given["H"]), width=int(given["W"]),
        steps=_at_least_one("ddim_steps", given["ddim_steps"]), upscale=_truth("do_sr", given["do_sr"]),
        seed=None if seed is None else _number("seed", seed, int),
        drawing={name: given[name] for name in DRAWING if given.get(name) is not None})


def _iterations(pipe: StableDiffusionPipeline, text: str, settings: Settings, before: int) -> Iterator[Tensor]:
    """The images of each iteration [n_samples, 3, H, W] in [0, 1]; ``before`` images came before them."""
    for first in range(before, before + settings.n_iter * settings.n_samples, settings.n_samples):
        images: Tensor = pipe(
            text, num_images_per_prompt=settings.n_samples, num_inference_steps=settings.steps, height=settings.height,
            width=settings.width, guidance_scale=settings.scale, output_type="pt",
            **{**settings.drawing, **_generators(settings, first)}).images
        yield images


def _generators(settings: Settings, first: int) -> dict[str, Any]:
    """A generator for each image, where a seed or a list of them was given."""
    count, given = settings.n_samples, settings.drawing.get("generator")
    if settings.seed is not None:
        return {"generator": [torch.Generator().manual_seed(settings.seed + first + k) for k in range(count)]}
    if isinstance(given, (list, tuple)):
        if len(given) < first + count:
            raise RequestError(
                f"{len(given)} generators were given for at least {first + count} images; give one for each.")
        return {"generator": list(given[first:first + count])}
    return {}


def _upscaler(pipe: StableDiffusionPipeline) -> Callable[[Tensor], Tensor]:
    """Opened before anything is drawn: a checkpoint may have none."""
    from danqing.upscaling import upscaler_of

    return upscaler_of(pipe).upscale


def _pictures(images: Tensor) -> list[Image]:
    """[B, 3, H, W] in [0, 1] as the original wrote it: bytes by truncation."""
    return to_pil((255.0 * images.float().cpu().permute(0, 2, 3, 1).numpy()).astype(np.uint8))


def _at_least_one(name: str, value: Any) -> int:
    number: int = _number(name, value, int)
    if number < 1:
        raise RequestError(f"{name} must be at least 1, not {number}.")
    return number


def _number(name: str, value: Any, kind: type[Any]) -> Any:
    """A number, or the text of one; a whole one where ``kind`` is int."""
    try:
        if isinstance(value, bool) or kind is int and isinstance(value, float):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        raise RequestError(f"{name} must be a {'whole ' if kind is int else ''}number, not {value!r:.80}.") from None


def _truth(name: str, value: Any) -> bool:
    """True or False, or a word for one of them."""
    if isinstance(value, (bool, int)) or value is None:
        return bool(value)
    found = WORDS.get(str(value).strip().lower())
    if found is None:
        raise RequestError(f"{name} must be True or False, not {value!r:.80}.")
    return found
