"""The tables that the small model is trained on, and its accuracy on combinations that it never saw."""

from __future__ import annotations

import argparse
import base64
import io
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from danqing_pack.staging import staged_file, staged_folder
from PIL import Image

from .captions import Caption, random_example, vocabulary
from .drawing import Scene, draw
from .measuring import agrees

SINGLE_SHARE = 0.4  # of the pictures show one thing, the others two


def write_tables(folder: Path, rows: int, seed: int, validation_rows: int = 256) -> None:
    """`train.tsv`, `validation.tsv` (idx, text, imgbase64) and `vocab.txt`; existing files stay."""
    for name, count, start in (("train.tsv", rows, seed), ("validation.tsv", validation_rows, seed + 1)):
        if not (folder / name).exists():
            rng = random.Random(start)
            with staged_file(folder / name) as file, open(file, "w", encoding="utf-8") as stream:
                for index in range(count):
                    scene, caption = random_example(rng, 1 if rng.random() < SINGLE_SHARE else 2)
                    stream.write(f"{index}\t{caption.text}\t{_png(scene)}\n")
    if not (folder / "vocab.txt").exists():
        with staged_file(folder / "vocab.txt") as file:
            file.write_text("".join(token + "\n" for token in vocabulary()), "utf-8")


def _png(scene: Scene) -> str:
    file = io.BytesIO()
    draw(scene).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def questions(things: int, count: int, seed: int) -> list[Caption]:
    """Captions that name background and place, of combinations that no training picture has."""
    rng = random.Random(seed)
    return [random_example(rng, things, complete=True, outside=True)[1] for _ in range(count)]


def accuracy(pictures: Sequence[Image.Image], captions: Sequence[Caption]) -> float:
    """The share of pictures in which everything that the caption says is right."""
    right = [agrees(picture, caption.says) for picture, caption in zip(pictures, captions, strict=True)]
    return sum(right) / len(right)


def measure(pipe: Any, count: int, seed: int = 20_000, batch: int = 50, report: Callable[[str], None] = print,
            **sampling: Any) -> dict[str, float]:
    """Accuracy of a painter pipeline for one and for two things, on `count` unseen captions each."""
    import torch

    found = {}
    for things in (1, 2):
        captions = questions(things, count, seed + things)
        pictures: list[Image.Image] = []
        for start in range(0, count, batch):
            part = captions[start : start + batch]
            generators = [torch.Generator().manual_seed(start + index) for index in range(len(part))]
            pictures += pipe([caption.text for caption in part], generator=generators, **sampling).images
        name = "one thing" if things == 1 else "two things"
        found[name] = accuracy(pictures, captions)
        report(f"{name}: {found[name]:.1%} right of {count} unseen combinations")
    return found


def install(source: Path, target: Path) -> None:
    """Copy a checkpoint's own three files into the package; the whole folder appears at once."""
    with staged_folder(target, force=True, sources=[source]) as folder:
        for name in ("config.json", "pytorch_model.bin", "vocab.txt"):
            shutil.copyfile(source / name, folder / name)


def main(argv: Sequence[str] | None = None) -> None:
    """The steps of `tools/train_mini` that are not training."""
    parser = argparse.ArgumentParser(prog="python -m danqing.mini.making", description=main.__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    tables = steps.add_parser("tables")
    tables.add_argument("folder", type=Path)
    tables.add_argument("--rows", type=int, default=40_000)
    tables.add_argument("--seed", type=int, default=1)
    installing = steps.add_parser("install")
    installing.add_argument("source", type=Path)
    installing.add_argument("target", type=Path)
    measuring = steps.add_parser("accuracy")
    measuring.add_argument("checkpoint", type=Path)
    measuring.add_argument("--count", type=int, default=500)
    args = parser.parse_args(argv)
    if args.step == "tables":
        write_tables(args.folder, args.rows, args.seed)
    elif args.step == "install":
        install(args.source, args.target)
    else:
        from danqing.loading import load

        pipe: Any = load(args.checkpoint, device="cpu", dtype="fp32")
        pipe.set_progress_bar_config(disable=True)
        measure(pipe, args.count)


if __name__ == "__main__":
    main()
