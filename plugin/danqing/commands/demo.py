"""Show the whole way with the small painter inside Danqing: detect, convert, check, generate, pack, unpack, ModelScope.

Each command is printed as you would type it, and run.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from danqing_pack.errors import DanqingError, RequestError, listing

from danqing.places import require_writable

MADE = ("painter", "model.tar.gz", "unpacked", "pictures", "from-the-bundle")
"""What a demo leaves in its folder, and the next one replaces."""
MARK = ".danqing-demo"
"""The file that tells a demo's folder from anybody else's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing demo``."""
    parser.add_argument("-o", "--output", type=Path, default=Path("danqing-demo"), metavar="DIR",
                        help="folder for everything the demo makes (default: danqing-demo)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the first picture (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Run the way, and compare what came out of the folder with what came out of the bundle."""
    from danqing.mini import CHECKPOINT, DEMO_PROMPTS

    out: Path = args.output
    require_writable(out)
    _make_room(out)
    painter, bundle, unpacked = (out / name for name in ("painter", "model.tar.gz", "unpacked"))
    drawing = [*DEMO_PROMPTS, "--seed", str(args.seed), "--batch-size", "16"]
    _command("detect", CHECKPOINT)
    _command("convert", CHECKPOINT, painter, "--to", "diffusers")
    _command("check", painter)
    _command("generate", *drawing, "-m", painter, "-o", out / "pictures")
    _command("pack", painter, bundle)
    _command("unpack", bundle, unpacked)
    _command("generate", *drawing, "-m", unpacked, "-o", out / "from-the-bundle")
    print(f"\n{_compare(out / 'pictures', out / 'from-the-bundle')}")
    print(_modelscope(painter, DEMO_PROMPTS[0], args.seed, out / "pictures"))
    print(f"\nThe pictures: {out / 'pictures' / '0001-sheet.png'}")


def _make_room(out: Path) -> None:
    """Take away what an earlier demo left; RequestError: something of these names lies there that none made."""
    if not (out / MARK).is_file():
        if foreign := [name for name in MADE if (out / name).exists() or (out / name).is_symlink()]:
            raise RequestError(f"{out} holds {listing(foreign)}, which no demo made; name another folder with -o.")
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text(f"danqing demo replaces {', '.join(MADE)} in this folder.\n", "utf-8")
    for name in MADE:
        _remove(out / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _command(*words: str | Path) -> None:
    """Print a command as it would be typed, and run it."""
    from danqing import cli

    typed = [str(word) for word in words]
    print(f"\n$ danqing {shlex.join(typed)}", flush=True)
    code = cli.main(typed)
    if code == cli.NO_READER:
        raise BrokenPipeError
    if code:
        raise DanqingError(f"The demo stops here: `danqing {typed[0]}` found a problem.")


def _compare(one: Path, other: Path) -> str:
    """Whether two folders hold the same pictures, pixel by pixel."""
    from PIL import Image

    names = [_drawn(folder) for folder in (one, other)]
    different = [name for name in names[0] if names[0] != names[1]
                 or not np.array_equal(np.asarray(Image.open(one / name)), np.asarray(Image.open(other / name)))]
    if different:
        raise DanqingError(f"{len(different)} of {len(names[0])} pictures differ between the folder and the bundle: "
                           f"{different[0]} first.")
    return f"{len(names[0])} pictures, drawn from the folder and from the bundle: every pixel is equal."


def _drawn(folder: Path) -> list[str]:
    """The pictures of a folder by name, without the sheet of them all."""
    return sorted(path.name for path in folder.glob("*.png") if not path.name.endswith("-sheet.png"))


def _modelscope(painter: Path, prompt: str, seed: int, pictures: Path) -> str:
    """The first picture once more, through ModelScope."""
    from modelscope.pipelines import pipeline
    from PIL import Image

    print("\n>>> from modelscope.pipelines import pipeline")
    print(f'>>> pipeline("text-to-image-synthesis", "{painter}")({{"text": "{prompt}"}}, seed={seed})["output_imgs"]')
    draw: Any = pipeline("text-to-image-synthesis", str(painter))
    draw.pipeline.set_progress_bar_config(disable=True)
    image = draw({"text": prompt}, seed=seed)["output_imgs"][0]
    first = np.asarray(Image.open(pictures / _drawn(pictures)[0])).astype(int)
    apart = int(np.abs(first - image[:, :, ::-1]).max())
    if apart > 1:
        raise DanqingError(f"ModelScope's picture of {prompt} differs from the first one by {apart} levels.")
    return f"[{image.dtype} {list(image.shape)}, BGR: the first picture again, at most {apart} levels apart]"
