"""Draw pictures from prompts with any model: an EasyNLP folder, a diffusers folder, a bundle, or a hub's repository.

  danqing generate "宽松T恤" -m pai-painter-commercial-base-zh --num-images 4 --seed 7

Image k of a call draws with the seed S + k, which its PNG records with the prompt; alone or among others, it is the same.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

from danqing_pack.errors import RequestError

from danqing.adapters import options
from danqing.devices import require_words
from danqing.places import Place, find_checkpoint, require_writable

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
    """Draw, write each PNG as soon as it is drawn and a contact sheet of several, and say in one line what was written."""
    _require_text(args.prompts)
    seed, loading = _checked_seed(args), options.loading(args)
    require_writable(args.output)
    require_words(args.device, args.dtype)
    keywords = {name: value for name in KEYWORDS if (value := getattr(args, name)) is not None}
    place = _place(args.model, args.text_length)
    _require_fitting(place.family, args, keywords)
    if args.upscale and place.family is not None and "upscaler" not in place.attachments:
        raise RequestError(f"{place.path} has no upscaler; leave out --upscale, or name a checkpoint that carries one.")
    from danqing.loading import load
    from danqing.orders import SharedPipeline
    from danqing.quiet import quiet_libraries
    from danqing.upscaling import upscaler_of

    pipe: Any = load(place.path, device=args.device, dtype=args.dtype, text_length=args.text_length, **loading)
    _require_fitting(pipe.danqing_family, args, keywords)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    call = options.prepare(pipe, args, args.prompts)
    for note in call.notes:
        print(note, file=sys.stderr)
    shared = SharedPipeline(call.pipe, {}, upscaler=lambda: upscaler_of(pipe))
    prompts = [prompt for prompt in args.prompts for _ in range(args.num_images)]
    wanted = [{"text": prompt, "seed": seed + index} for index, prompt in enumerate(prompts)]
    pictures = Pictures(args.output, {"family": pipe.danqing_family, **({"upscale": True} if args.upscale else {}), **keywords,
                                      **options.recorded(args)})
    try:
        with quiet_libraries():
            drawn = shared.draw_each(wanted, batch_size=args.batch_size, upscale=args.upscale, **keywords, **call.keywords)
            for each, [[image]] in zip(wanted, drawn, strict=True):
                pictures.add(image, **each)
    except BaseException:
        if pictures.names:
            print(f"{len(pictures.names)} of {len(wanted)} pictures are finished, in {args.output}.", file=sys.stderr)
        raise
    print(f"Wrote {len(wanted)} picture{'s' if len(wanted) > 1 else ''} to {args.output}: {', '.join(pictures.close())}.")


def _require_fitting(family: str | None, args: argparse.Namespace, keywords: dict[str, Any]) -> None:
    """Refuse options that the family has no place for, as soon as the family is known."""
    if family == "painter":
        options.refuse_foreign(args)
    elif keywords and family is not None:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in keywords)
        raise RequestError(f"{family} takes no {named}, which only painters do; leave it out.")


class Pictures:
    """PNGs named by number, prompt and seed, in a folder where nothing that is there is written over."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.names: list[str] = []
        self._folder, self._settings, self._first = folder, settings, 0
        self._images: list[Any] = []
        self._prompts: list[str] = []

    def add(self, image: Any, text: str, seed: int) -> None:
        """Write one picture."""
        from danqing_pack.staging import staged_file

        from danqing.images import file_name, save_png

        if not self._first:
            self._begin()
        name = f"{self._first + len(self.names):04d}-{file_name(text)}-{seed}.png"
        with staged_file(self._folder / name) as staged:
            save_png(image, staged, {"prompt": text, "seed": seed, **self._settings})
        self.names.append(name)
        self._images.append(image)
        self._prompts.append(text)

    def close(self) -> list[str]:
        """Write the contact sheet of several; names for a line that says what was written."""
        from danqing_pack.staging import staged_file

        from danqing.images import contact_sheet, save_png

        if len(self.names) > 1:
            name = f"{self._first:04d}-sheet.png"
            with staged_file(self._folder / name) as staged:
                save_png(contact_sheet(self._images), staged, {"prompts": self._prompts})
            self.names.append(name)
        return self.names if len(self.names) <= 3 else [self.names[0], "...", self.names[-1]]

    def _begin(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{self._folder} cannot be made ({error.strerror}); name another folder with -o.") from error
        taken = (int(each.name[:4]) for each in self._folder.glob("[0-9][0-9][0-9][0-9]-*.png"))
        self._first = 1 + max(taken, default=0)


def _require_text(prompts: list[str]) -> None:
    for prompt in prompts:
        if not prompt.strip():
            raise RequestError("A prompt is empty; say what to draw.")
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


def _place(name: str | None, text_length: int | None) -> Place:
    """Where the model lies, the one inside Danqing where none was named; what is no checkpoint is refused at once."""
    if name is not None:
        return find_checkpoint(name, text_length)
    from danqing.mini import CHECKPOINT

    return Place(CHECKPOINT, "painter")
