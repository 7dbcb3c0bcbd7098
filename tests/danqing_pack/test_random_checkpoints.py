"""Random checkpoints: of every family, whole, and the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from danqing_pack import check, convert, detect
from danqing_pack.errors import RequestError
from danqing_pack.families import FAMILIES
from danqing_pack.random_checkpoints import MAKERS, random_tensor, vocabulary, write
from danqing_pack.sides import Modern


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("family", sorted(MAKERS))
def test_a_whole_checkpoint_twice(family: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(family, tmp_path / name)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert check(tmp_path / "one") == [] and detect(tmp_path / "one").family == family


@pytest.mark.parametrize(("family", "layout"), [(each.name, layout) for each in FAMILIES if each.name in MAKERS
                                                for layout in each.layouts])
def test_every_layout(family: str, layout: str, tmp_path: Path) -> None:
    write(family, tmp_path / "made", layout=layout, dtype="fp16")
    found = detect(tmp_path / "made")
    assert (found.family, found.layout) == (family, layout) and "float16" in found.dtypes


def test_full_size_is_that_of_the_hubs() -> None:
    """Parameters as published; nothing is drawn for it."""
    form = MAKERS["pai-diffusion"](True)
    assert isinstance(form, Modern)
    counts = {name: sum(tensor.size for tensor in part.tensors.values()) for name, part in form.components.items()}
    # 3.44 GB, 335 MB and 405 MB in float32 on the hub
    assert (counts["unet"], counts["vae"], counts["text_encoder"]) == (859_520_964, 83_653_863, 101_306_880)


def test_the_words_stand_where_bert_has_them() -> None:
    lines = vocabulary(21128).decode().splitlines()
    assert len(lines) == len(set(lines)) == 21128
    assert [lines[place] for place in (0, 100, 101, 102, 103)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"a", "9", "，", "一"} - set(lines) == {"，"}


def test_values_keep_their_scale() -> None:
    drawn = random_tensor("layer.weight", (64, 32, 3, 3)).array()
    assert abs(float(drawn.std()) * (32 * 9) ** 0.5 - 1) < 0.02 and not drawn.flags.writeable
    assert (random_tensor("norm.weight", (8,)).array() == 1).all() and not random_tensor("norm.bias", (8,)).array().any()
    assert not np.array_equal(drawn, random_tensor("other.weight", (64, 32, 3, 3)).array())


@pytest.mark.parametrize(("words", "message"), [
    ({"family": "gan"}, "no random checkpoints of gan"), ({"size": "huge"}, "huge"), ({"layout": "zip"}, "no layout zip"),
    ({"layout": "single-file"}, "painter has no single-file layout"),
])
def test_words_that_mean_nothing(words: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        write(**{"family": "painter", "target": tmp_path / "out", **words})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_tool(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tool = request.config.rootpath / "tools" / "make_random"
    command = [sys.executable, str(tool), "painter", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and detect(tmp_path / "out").family == "painter"
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "make_random: " in again.stderr and "Traceback" not in again.stderr
    convert(tmp_path / "out", tmp_path / "modern", to="diffusers")
