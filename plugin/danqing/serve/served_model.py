"""A loaded pipeline as a service sees it: what it takes, and how several pictures of one kind are drawn together."""

from __future__ import annotations

import copy
import gc
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from danqing_pack.errors import DanqingError
from PIL import Image

from danqing.adapters.variants import CLASS_NAMES, variant
from danqing.orders import SharedPipeline
from danqing.quiet import quiet_libraries
from danqing.upscaling import Upscaler, upscaler_of

from .contract import Limits, Refusal, Request, Takes
from .pictures import fitted, picture

KEYWORDS = ("width", "height", "guidance_scale", "negative_prompt", "top_k", "temperature")
"""Optional fields that are keywords of a pipeline by the same name."""
BLADE_SHAPES = 16
"""Shapes that the accelerated path is used for; each costs a CUDA graph of its own, kept for good."""


class Abandoned(Exception):
    """Nobody waits for these pictures any more."""


@dataclass(frozen=True, eq=False)
class Style:
    """How pictures are drawn; what agrees in ``key`` is drawn together."""

    keywords: Mapping[str, Any]
    image: Image.Image | None = None
    mask: Image.Image | None = None
    blade: bool = False
    upscale: bool = False
    key: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        words = tuple(sorted(self.keywords.items()))
        object.__setattr__(self, "key", (words, id(self.image), id(self.mask), self.blade, self.upscale))


class ServedModel:
    """A pipeline from ``danqing.load``. ``draw`` is called from one thread at a time, the rest from any."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)
        self._parameters = inspect.signature(type(pipe).__call__).parameters
        self._kinds: dict[tuple[bool, bool, bool], SharedPipeline] = {}
        self._blade_shapes: set[tuple[Any, ...]] = set()
        self._upscaler = _upscaler(pipe)  # opened now: later its file may be gone

    @cached_property
    def takes(self) -> Takes:
        """The fields that make sense here, and their bounds."""
        names = {"seed"} | {name for name in KEYWORDS if name in self._parameters}
        if self._starts_from_images():
            names |= {"image", "mask", "strength"}
        if self._upscaler is not None:
            names.add("upscale")
        painter = getattr(self.pipe, "transformer", None) if "top_k" in self._parameters else None
        if painter is not None:
            side = self.pipe.vqvae.config.sample_size
            return Takes(frozenset(names), side, side, steps=False, codes=painter.config.image_vocab_size)
        side = self.pipe.unet.config.sample_size * getattr(self.pipe, "vae_scale_factor", 1)
        return Takes(frozenset(names), side, side, steps="num_inference_steps" in self._parameters)

    def style(self, request: Request, limits: Limits) -> Style:
        """How to draw a request. Raises ``Refusal`` (400) for pictures that cannot be read or do not fit."""
        given = request.given
        keywords = {name: given[name] for name in (*KEYWORDS, "num_inference_steps", "strength") if name in given}
        image = mask = None
        if "image" in given:
            image = fitted(picture("image", given["image"], limits), given.get("width"), given.get("height"), limits)
            keywords = {name: value for name, value in keywords.items() if name not in ("width", "height")}
            steps, strength = given.get("num_inference_steps", 50), given.get("strength", 0.8)
            if int(steps * strength) < 1:
                raise Refusal(400, f"strength {strength} of {steps} steps leaves no step to draw; raise either.")
        if "mask" in given and image is not None:
            mask = picture("mask", given["mask"], limits).resize(image.size)
            keywords |= {"width": image.width, "height": image.height}
        blade = request.use_blade and self._starts_from_images()
        return Style(keywords, image, mask, blade, given.get("upscale", False))

    def draw(
        self, style: Style, texts: Sequence[str], seeds: Sequence[int], wanted: Callable[[], bool]
    ) -> list[Image.Image]:
        """One picture for each text from its seed, as ``danqing generate`` draws it.

        ``wanted`` is asked at each step; once it says no, ``Abandoned`` is raised. Raises ``Refusal`` (500) when memory
        runs out, and hands back what was taken.
        """
        keywords: dict[str, Any] = {**style.keywords, **({"upscale": True} if style.upscale else {})}
        if "callback_on_step_end" in self._parameters:
            keywords["callback_on_step_end"] = _watch(wanted)
        if style.image is not None:
            keywords |= {"image": style.image, **({"mask_image": style.mask} if style.mask is not None else {})}
        elements = [{"text": text, "seed": seed} for text, seed in zip(texts, seeds, strict=True)]
        try:
            with quiet_libraries():
                drawn = self._kind(style, len(texts)).draw(elements, batch_size=len(elements), **keywords)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return [image for [[image]] in drawn]
        _free_memory()  # outside of the handler, whose traceback holds on to the tensors
        raise Refusal(500, "Memory ran out while drawing; ask for fewer or smaller pictures.")

    def warm_up(self) -> None:
        """Draw one small picture, so that the first request finds everything in place."""
        steps = {"num_inference_steps": 2} if self.takes.steps else {}
        self.draw(Style(steps), ["山水"], [0], lambda: True)

    def _opened_upscaler(self) -> Upscaler:
        if self._upscaler is None:
            raise Refusal(400, "This model has no upscaler; leave out upscale.")
        return self._upscaler

    def _starts_from_images(self) -> bool:
        return type(self.pipe).__name__ in CLASS_NAMES.values() and hasattr(self.pipe, "unet")

    def _kind(self, style: Style, count: int) -> SharedPipeline:
        """The pipeline for this style; calls take turns, so those over the same networks may share them."""
        image, mask = style.image is not None, style.mask is not None
        blade = style.blade and self._blade_takes((count, image, mask, tuple(sorted(
            (name, style.keywords[name]) for name in ("width", "height") if name in style.keywords)),
            style.image.size if style.image is not None else None)) and self._accelerated is not None
        known = self._kinds.get((image, mask, blade))
        if known is None:
            pipe = self._accelerated if blade else self.pipe
            pipe = variant(pipe, image=image, mask=mask) if image else pipe
            known = self._kinds[image, mask, blade] = SharedPipeline(pipe, {}, upscaler=self._opened_upscaler)
        return known

    def _blade_takes(self, shape: tuple[Any, ...]) -> bool:
        if shape not in self._blade_shapes and len(self._blade_shapes) < BLADE_SHAPES:
            self._blade_shapes.add(shape)
        return shape in self._blade_shapes

    @cached_property
    def _accelerated(self) -> Any | None:
        """A copy of the pipeline with what pays on this device, or nothing where that does not fit."""
        from danqing.adapters.acceleration import accelerate

        try:
            with quiet_libraries():
                parts = {name: copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part
                         for name, part in self.pipe.components.items()}
                twin = type(self.pipe)(**parts)
                twin.set_progress_bar_config(disable=True)
                accelerate(twin)
            return twin
        except (torch.OutOfMemoryError, MemoryError, RuntimeError, DanqingError) as error:
            kind = type(error).__name__
            print(f"danqing serve: {kind}: no accelerated path, use_blade changes nothing.", file=sys.stderr)
        _free_memory()
        return None


def _watch(wanted: Callable[[], bool]) -> Callable[..., dict[str, Any]]:
    def at_step(pipe: Any, step: int, place: Any, values: dict[str, Any]) -> dict[str, Any]:
        if not wanted():
            raise Abandoned
        return values

    return at_step


def _upscaler(pipe: Any) -> Upscaler | None:
    """The checkpoint's upscaler, where it has one."""
    try:
        return upscaler_of(pipe)
    except DanqingError:
        return None


def _is_out_of_memory(error: BaseException) -> bool:
    words = ("allocate memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
