"""danqing.json: the same bytes for the same content, every change of a folder named, a stranger's one not trusted."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from danqing_pack import manifests
from danqing_pack.errors import FormatError
from hypothesis import given
from hypothesis import strategies as st


def sha(data: bytes) -> str:
    return sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two files with its manifest."""
    (tmp_path / "vqvae").mkdir()
    (tmp_path / "vocab.txt").write_bytes(b"v")
    (tmp_path / "vqvae" / "config.json").write_bytes(b"{}")
    manifests.write(tmp_path, family="painter", layout="diffusers", dimensions={"width": 8, "codes": 4},
                    source={"layout": "easynlp", "files": {"vocab.txt": sha(b"v")}},
                    files={"vqvae/config.json": sha(b"{}"), "vocab.txt": sha(b"v")})
    return tmp_path


def test_content_and_order(folder: Path) -> None:
    data = (folder / "danqing.json").read_bytes()
    assert manifests.read(folder) == {
        "format": 1, "family": "painter", "layout": "diffusers", "dimensions": {"width": 8, "codes": 4},
        "source": {"layout": "easynlp", "files": {"vocab.txt": sha(b"v")}},
        "files": {"vqvae/config.json": sha(b"{}"), "vocab.txt": sha(b"v")}}
    assert data.index(b'"codes"') < data.index(b'"width"') < data.index(b'"family"') < data.index(b'"files"')
    assert data.endswith(b"}\n") and str(folder).encode() not in data


def test_the_same_content_gives_the_same_bytes_in_any_order() -> None:
    one = manifests.encode({"files": {"a": "1", "b": "2"}, "format": 1})
    assert one == manifests.encode({"format": 1, "files": {"b": "2", "a": "1"}})


def test_other_keys_are_kept(folder: Path) -> None:
    manifests.write(folder, family="painter", layout="diffusers", dimensions={}, source={}, files={},
                    remade={"m": "f4"})
    assert manifests.read(folder)["remade"] == {"m": "f4"}


def test_a_whole_folder_has_no_problems(folder: Path) -> None:
    assert manifests.verify(folder) == []


def test_a_folder_without_a_manifest_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "any").write_text("x")
    assert manifests.read(tmp_path) == {} and manifests.verify(tmp_path) == []


def test_every_change_is_named_at_once(folder: Path) -> None:
    (folder / "vocab.txt").write_bytes(b"w")
    (folder / "vqvae" / "config.json").unlink()
    (folder / "vqvae" / "extra.bin").write_bytes(b"")
    changed, missing, extra = manifests.verify(folder)
    assert changed.startswith("vocab.txt is not the file") and missing.startswith("vqvae/config.json is missing")
    assert extra.startswith("vqvae/extra.bin is not listed")


@pytest.mark.parametrize("name", ["README.md", "README.zh.md", "LICENSE", ".gitattributes", ".git/HEAD", ".DS_Store",
                                  "vqvae/.DS_Store", "example.png", ".cache/huggingface/x", "__pycache__/m.pyc"])
def test_what_people_put_beside_a_checkpoint_is_no_problem(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert manifests.verify(folder) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "vqvae/README.md", "scheduler/scheduler_config.json", "x.py"])
def test_what_a_loader_might_pick_up_is_a_problem(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert len(manifests.verify(folder)) == 1


def test_a_link_to_the_right_content_counts_and_a_dangling_one_is_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "vocab.txt").rename(folder / ".blob")
    (folder / "vocab.txt").symlink_to(".blob")
    assert manifests.verify(folder) == []
    (folder / ".blob").unlink()
    assert manifests.verify(folder)[0].startswith("vocab.txt is missing")


GOOD: dict[str, Any] = {"format": 1, "files": {"a": "0" * 64}}


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 1}', b'{"format": 1, "files": []}',
    *(json.dumps({**GOOD, "files": {name: "0" * 64}}).encode() for name in ("/x", "../x", "a/../../x", "a\0b")),
    *(json.dumps({**GOOD, "files": {"a": value}}).encode() for value in (1, None, "0" * 63, "g" * 64, "A" * 64)),
])
def test_a_damaged_manifest_is_a_sentence(folder: Path, content: bytes) -> None:
    (folder / "danqing.json").write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        manifests.read(folder)
    assert len(manifests.verify(folder)) == 1


def test_a_newer_manifest_asks_for_an_update(folder: Path) -> None:
    (folder / "danqing.json").write_text(json.dumps({**GOOD, "format": 2}))
    with pytest.raises(FormatError, match=r"format 2.*update Danqing"):
        manifests.read(folder)


def test_a_manifest_that_is_a_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "danqing.json").mkdir()
    with pytest.raises(FormatError, match="cannot be read"):
        manifests.read(tmp_path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_is_a_manifest_or_a_sentence(value: object) -> None:
    try:
        manifests.decode(json.dumps(value).encode(), "here")
    except FormatError:
        return
    raise AssertionError("no random value has digests")
