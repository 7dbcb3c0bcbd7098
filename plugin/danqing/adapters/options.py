"""The options of ``danqing generate`` for diffusion models: read, checked, and turned into keywords of a call."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danqing_pack.errors import RequestError

from danqing.adapters.schedulers import CLASS_NAMES

KEYWORDS = {"negative_prompt": "negative_prompt", "steps": "num_inference_steps", "guidance": "guidance_scale",
            "width": "width", "height": "height", "strength": "strength"}
"""Options and what the pipelines call them."""
IMAGES = ("image", "mask", "control_image", "control_image_from")


@dataclass
class Call:
    """A pipeline, the keywords it is called with, and lines for the user."""

    pipe: Any
    keywords: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The group of options for diffusion models."""
    group = parser.add_argument_group("diffusion models")
    group.add_argument("--negative-prompt", metavar="TEXT", help="what the picture should not show")
    group.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the pipeline's)")
    group.add_argument("--guidance", type=float, metavar="G",
                       help="how closely to follow the prompt (default: the pipeline's)")
    group.add_argument("--scheduler", choices=tuple(CLASS_NAMES), help="how to step (default: what the folder says)")
    group.add_argument("--width", type=int, metavar="PIXELS", help="a multiple of 8 (default: the model's)")
    group.add_argument("--height", type=int, metavar="PIXELS", help="a multiple of 8 (default: the model's)")
    group.add_argument("--image", metavar="FILE", help="a picture to start from")
    group.add_argument("--strength", type=float, metavar="S", help="how much of the picture to redo, 0 to 1")
    group.add_argument("--mask", metavar="FILE", help="white where the picture is to be repainted")
    group.add_argument("--controlnet", metavar="DIR", help="a ControlNet that steers by --control-image")
    group.add_argument("--control-image", metavar="FILE", help="edges, depth or whatever the ControlNet reads")
    group.add_argument("--control-image-from", choices=("canny",),
                       help="make it from the picture given as --control-image")
    group.add_argument("--lora", action="append", metavar="PATH[:SCALE]", help="a LoRA, old or new; may be repeated")
    group.add_argument("--embedding", action="append", metavar="FILE", help="a textual inversion; may be repeated")
    group.add_argument("--fast", nargs="?", const="quick", choices=("quick", "max"),
                       help="what pays on this device; max compiles first, which takes minutes")


def loading(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords for ``danqing.load``, those alone that were given.

    Raises ``RequestError`` for options that need another, before anything is loaded.
    """
    for option, other in (("mask", "image"), ("strength", "image"), ("control_image", "controlnet"),
                          ("controlnet", "control_image"), ("control_image_from", "control_image")):
        if getattr(args, option) is not None and getattr(args, other) is None:
            raise RequestError(f"--{option.replace('_', '-')} needs --{other.replace('_', '-')}; give both or neither.")
    _check_numbers(args)
    _check_images(args)
    given: dict[str, Any] = {"scheduler": args.scheduler, "controlnet": args.controlnet, "embeddings": args.embedding,
                             "lora": [split_lora(text) for text in args.lora or ()]}
    return {name: value for name, value in given.items() if value}


def recorded(args: argparse.Namespace) -> dict[str, Any]:
    """What a picture's metadata says of these options: numbers, texts, and files by their base names."""
    names = (*KEYWORDS, *IMAGES, "scheduler", "controlnet", "lora", "embedding", "fast")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    for name in ("image", "mask", "control_image", "controlnet"):
        if name in given:
            given[name] = Path(given[name]).name
    for name in ("lora", "embedding"):
        if name in given:
            given[name] = [Path(each).name for each in given[name]]
    return given


def split_lora(text: str) -> tuple[str, float]:
    """``PATH:0.8`` as path and scale; a path alone means 1, and what follows a colon is a scale if it is a number."""
    path, colon, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (text, 1.0)
    except ValueError:
        return text, 1.0


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("width", "height"):
        size = getattr(args, name)
        if size is not None and (size < 8 or size % 8):
            raise RequestError(f"--{name} {size} is no multiple of 8; the nearest is {max(8, round(size / 8) * 8)}.")
    if args.steps is not None and args.steps < 1:
        raise RequestError(f"--steps {args.steps} draws nothing; give a number of at least 1.")
    if args.strength is not None and not 0 < args.strength <= 1:
        raise RequestError(f"--strength {args.strength} is out of range; give a number above 0 and up to 1.")


def _check_images(args: argparse.Namespace) -> None:
    from danqing.adapters.variants import open_image

    for name in ("image", "mask", "control_image"):
        if (path := getattr(args, name)) is not None:
            open_image(path)


def refuse_foreign(args: argparse.Namespace) -> None:
    """Raise ``RequestError`` for options that a painter does not take."""
    foreign = [name for name in (*KEYWORDS, *IMAGES, "fast", "scheduler", "controlnet", "lora", "embedding")
               if getattr(args, name) is not None]
    if foreign:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise RequestError(f"This model takes no {named}; only diffusion models do.")


def prepare(pipe: Any, args: argparse.Namespace, prompts: Sequence[str]) -> Call:
    """The pipeline for what was given, with the keywords of its call and what the user should read.

    What the family does not take has been refused. Raises ``FormatError`` for images that cannot be read.
    """
    from danqing.adapters.prompts import cut_warnings

    keywords = {ours: value for name, ours in KEYWORDS.items() if (value := getattr(args, name)) is not None}
    if not hasattr(pipe, "unet"):
        return Call(pipe, notes=cut_warnings(pipe, prompts))
    from danqing.adapters.variants import variant

    call = Call(variant(pipe, image=args.image is not None, mask=args.mask is not None), keywords)
    _add_images(call, args)
    call.notes += cut_warnings(pipe, [*prompts, *([args.negative_prompt] if args.negative_prompt else [])])
    if args.fast:
        from danqing.adapters.acceleration import Speedups, accelerate

        chosen = accelerate(call.pipe, level=args.fast)
        call.notes.append(f"--fast: {chosen}." if chosen != Speedups() else
                          "--fast changes nothing here: nothing it knows makes this model faster on this device.")
    return call


def _add_images(call: Call, args: argparse.Namespace) -> None:
    """Open and fit the images, and put them where this pipeline looks for them."""
    from danqing.adapters.controlnet import control_image
    from danqing.adapters.variants import fit_image, open_image, open_mask

    keywords = call.keywords
    if args.image is not None:
        image = fit_image(open_image(args.image), args.width, args.height)
        keywords["image"] = image
        for name in ("width", "height"):
            keywords.pop(name, None)
        if args.mask is not None:
            mask = open_mask(args.mask).resize(image.size)
            keywords |= {"mask_image": mask, "width": image.width, "height": image.height}
    if args.control_image is not None:
        side = call.pipe.unet.config.sample_size * call.pipe.vae_scale_factor
        width, height = keywords["image"].size if "image" in keywords else (args.width or side, args.height or side)
        steering = control_image(
            open_image(args.control_image), width, height, edges=args.control_image_from == "canny")
        keywords["control_image" if args.image is not None else "image"] = steering
