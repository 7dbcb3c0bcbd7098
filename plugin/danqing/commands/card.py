"""Write the model card of a checkpoint folder, for Hugging Face and ModelScope alike, with example pictures drawn now.

  danqing card painter                                              # painter/README.md and painter/example-1.png ...
  danqing card painter --language both --repository hf:org/name
  danqing card painter --prompts 宽松T恤 连衣裙 --seed 7

What the folder does not show is left out. What you write into the card by hand stays when it is written again; only
the parts between its markers are renewed, and of these only those that nobody changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OTHER = "README.{}.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing card``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a checkpoint folder of any layout")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="the card to write (default: DIR/README.md)")
    parser.add_argument("--language", choices=("en", "zh", "both"),
                        help="both: README.md in English and README.zh.md (default: as the card that is there, else en)")
    parser.add_argument("--repository", metavar="HUB:ORG/NAME", help="hf:org/name or ms:org/name, for the code in the card")
    parser.add_argument("--name", help="the title (default: the repository's or the folder's name)")
    parser.add_argument("--license", "--licence", dest="licence", metavar="ID",
                        help="such as mit (default: that of the card which is there, else apache-2.0)")
    parser.add_argument("--no-special-terms", action="store_true",
                        help="leave out the special terms of the PAI models: this one is not made from them")
    parser.add_argument("--base-model", metavar="ORG/NAME", help="what it was made from (default: as its trainer wrote)")
    drawing = parser.add_argument_group("example pictures")
    drawing.add_argument("--prompts", nargs="+", metavar="TEXT", help="draw these anew (default: the family's, if none is there)")
    drawing.add_argument("--seed", type=int, default=1, metavar="S", help="of the first; the next has S + 1 (default: 1)")
    drawing.add_argument("--no-examples", action="store_true", help="draw nothing")
    drawing.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    drawing.add_argument("--dtype", default="auto", help="auto, fp32, fp16 or bf16 (default: auto)")
    drawing.add_argument("--text-length", type=int, metavar="N", help="text tokens of a painter whose files leave it open")


def run(args: argparse.Namespace) -> None:
    """Draw what is missing, write the card or both, and say in a line each what was written."""
    from danqing_pack.card_facts import read_facts
    from danqing_pack.cards import NAME, prompts, write_card
    from danqing_pack.errors import RequestError

    first = args.out or args.folder / NAME
    if args.language == "both" and first.name != NAME:
        raise RequestError(f"--language both writes {NAME} and {OTHER.format('zh')}; name a file called {NAME}, or one language.")
    facts = read_facts(args.folder, args.text_length, first.parent)
    if not args.no_examples and (args.prompts or not facts.pictures) and not facts.own_code:
        drawn = draw(args, facts, args.prompts or prompts(facts.family, facts.characters), first.parent)
        print(f"Drew {', '.join(drawn)}.")
    cards = [("en", first, OTHER.format("zh")), ("zh", first.with_name(OTHER.format("zh")), first.name)] \
        if args.language == "both" else [(args.language, first, None)]
    for language, out, sibling in cards:
        done = write_card(
            args.folder, out, language=language, repository=args.repository, licence=args.licence, name=args.name,
            special_terms=not args.no_special_terms, base_model=args.base_model, sibling=sibling,
            text_length=args.text_length)
        for note in done.notes:
            print(note, file=sys.stderr)
        print(f"Wrote {done.path}.")


def draw(args: argparse.Namespace, facts: Any, prompts: Sequence[str], folder: Path) -> list[str]:
    """Draw one picture for each prompt into ``folder``; their names. Earlier example pictures of this model go."""
    from danqing_pack.card_facts import PRECISIONS, fingerprint, free_names
    from danqing_pack.errors import RequestError
    from danqing_pack.staging import staged_file

    from danqing.images import save_png
    from danqing.loading import load
    from danqing.orders import SharedPipeline
    from danqing.quiet import quiet_libraries

    if not 0 <= args.seed < 2**63 - len(prompts):
        raise RequestError(f"--seed {args.seed} is out of range; give a number from 0 to 2^63 - 1.")
    pipe: Any = load(args.folder, device=args.device, dtype=args.dtype, text_length=args.text_length)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    words = {"family": facts.family, "weights": fingerprint(facts.files), "device": pipe.device.type,
             "dtype": PRECISIONS.get(str(pipe.dtype).removeprefix("torch."), str(pipe.dtype))}
    with quiet_libraries():
        drawn = SharedPipeline(pipe, {}).draw(list(prompts), seed=args.seed)
    names = free_names(folder, len(prompts))
    for index, ([[image]], name) in enumerate(zip(drawn, names, strict=True)):
        with staged_file(folder / name, force=True) as staged:
            save_png(image, staged, {"prompt": prompts[index], "seed": args.seed + index, **words})
    for old in facts.pictures:
        if old.file not in names and "weights" in old.notes:    # only what was drawn here; others may be somebody's own
            (folder / old.file).unlink(missing_ok=True)
    return names
