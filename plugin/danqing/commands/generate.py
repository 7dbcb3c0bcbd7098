"""Draw pictures from prompts with any model: an EasyNLP folder, a diffusers folder, a bundle, or a hub's repository.

  danqing generate "宽松T恤" -m pai-painter-commercial-base-zh --num-images 4 --seed 7

Image k of a call draws with the seed S + k, which its PNG records with the prompt; alone or among others, it is the same.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path
from typing import Any

from danqing_pack.errors import RequestError

from danqing.adapters import options

KEYWORDS = ("top_k", "temperature")
"""Options that travel to the pipeline by their own name, where they were given."""
LARGEST_SEED = 2**63 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing generate``."""
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw, in Chinese")
    parser.add_argument("-m", "--model", metavar="MODEL", help="a folder, a bundle, a name, or hf:org/name or ms:org/name")
    parser.add_argument("-o", "--output", type=Path, default=Path("danqing-out"), metavar="OUT_DIR",
                        help="folder for the pictures (default: danqing-out)")
    parser.add_argument("--num-images", type=int, default=1, metavar="N", help="pictures per prompt (default: 1)")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the first picture (default: a random one, recorded)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="pictures drawn together (default: 4)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, fp32, fp16 or bf16 (default: auto)")
    parser.add_argument("--text-length", type=int, metavar="N", help="text tokens of a painter whose files leave it open")
    parser.add_argument("--upscale", action="store_true", help="four times as wide and high, by the checkpoint's upscaler")
    options.add_arguments(parser)
    painter = parser.add_argument_group("painter")
    painter.add_argument("--top-k", type=int, metavar="K", help="codes that take part in a draw (default: 100)")
    painter.add_argument("--temperature", type=float, metavar="T", help="how freely codes are drawn (default: 1.0)")


def run(args: argparse.Namespace) -> None:
    """Draw, write a PNG per picture and a contact sheet of several, and say in one line what was written."""
    _require_text(args.prompts)
    seed, loading = _checked_seed(args), options.loading(args)
    _require_writable(args.output)
    keywords = {name: value for name in KEYWORDS if (value := getattr(args, name)) is not None}
    place = _model(args.model, args.text_length)
    from danqing.loading import load
    from danqing.orders import SharedPipeline
    from danqing.quiet import quiet_libraries
    from danqing.upscaling import upscaler_of

    pipe: Any = load(place, device=args.device, dtype=args.dtype, text_length=args.text_length, **loading)
    if keywords and not hasattr(pipe, "transformer"):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in keywords)
        raise RequestError(f"{pipe.danqing_family} takes no {named}, which only painters do; leave it out.")
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    call = options.prepare(pipe, args, args.prompts)
    for note in call.notes:
        print(note, file=sys.stderr)
    with quiet_libraries():
        drawn = SharedPipeline(call.pipe, {}, upscaler=lambda: upscaler_of(pipe)).draw(
            args.prompts, batch_size=max(1, args.batch_size // args.num_images), num_images_per_prompt=args.num_images,
            seed=seed, upscale=args.upscale, **keywords, **call.keywords)
    pictures = [(prompt, image) for prompt, [images] in zip(args.prompts, drawn, strict=True) for image in images]
    written = _write(args.output, pictures, seed, {
        "family": pipe.danqing_family, **({"upscale": True} if args.upscale else {}), **keywords,
        **options.recorded(args)})
    print(f"Wrote {len(pictures)} picture{'s' if len(pictures) > 1 else ''} to {args.output}: {', '.join(written)}.")


def _require_text(prompts: list[str]) -> None:
    for prompt in prompts:
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            readable = prompt.encode("utf-8", "replace").decode()
            raise RequestError(f"The prompt “{readable}” is no UTF-8; let the terminal or the script write UTF-8.")


def _checked_seed(args: argparse.Namespace) -> int:
    """The seed of the first picture; raises RequestError for numbers that no drawing can have."""
    for option, number in (("--num-images", args.num_images), ("--batch-size", args.batch_size)):
        if number < 1:
            raise RequestError(f"{option} {number} draws nothing; give a number of at least 1.")
    if args.seed is None:
        return random.SystemRandom().randrange(2**32)
    if not 0 <= args.seed <= LARGEST_SEED - args.num_images * len(args.prompts):
        raise RequestError(f"--seed {args.seed} is out of range; give a number from 0 to 2^63 - 1.")
    return int(args.seed)


def _require_writable(folder: Path) -> None:
    """Refuse a place that cannot take pictures before minutes are spent on drawing them."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise RequestError(f"{place} is no folder, so no pictures can be written there; name another one with -o.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RequestError(f"{place} cannot be written to; name another folder with -o.")


def _model(name: str | None, text_length: int | None) -> str | Path:
    """Where the model lies, the one inside Danqing where none was named; what is no checkpoint is refused at once."""
    from danqing.places import find_checkpoint

    if name is not None:
        return find_checkpoint(name, text_length)
    from danqing.mini import CHECKPOINT

    return CHECKPOINT


def _write(folder: Path, pictures: list[tuple[str, Any]], seed: int, settings: dict[str, Any]) -> list[str]:
    """PNGs named by number, prompt and seed; nothing that is there is written over."""
    from danqing_pack.staging import staged_file

    from danqing.images import contact_sheet, file_name, save_png

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder} cannot be made ({error.strerror}); name another folder with -o.") from error
    first = 1 + max((int(each.name[:4]) for each in folder.glob("[0-9][0-9][0-9][0-9]-*.png")), default=0)
    written = []
    for index, (prompt, image) in enumerate(pictures):
        name = f"{first + index:04d}-{file_name(prompt)}-{seed + index}.png"
        with staged_file(folder / name) as staged:
            save_png(image, staged, {"prompt": prompt, "seed": seed + index, **settings})
        written.append(name)
    if len(pictures) > 1:
        name = f"{first:04d}-sheet.png"
        with staged_file(folder / name) as staged:
            save_png(contact_sheet([image for _, image in pictures]), staged, {"prompts": [each for each, _ in pictures]})
        written.append(name)
    return written if len(written) <= 3 else [written[0], "...", written[-1]]
