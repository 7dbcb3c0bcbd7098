"""What stands on a hub after a push, or after half of one, is one model; tags and visibility are what was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from danqing_pack import check, convert, manifests
from danqing_pack.errors import HubError, RequestError
from danqing_pack.pulling import pull
from danqing_pack.pushing import push

NAME = "org/painter"
Double = Any


@pytest.fixture(scope="module")
def half_precision(painter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same painter with other weights."""
    target = tmp_path_factory.mktemp("half") / "painter"
    convert(painter_checkpoint, target, to="diffusers", dtype="fp16")
    return target


# ---- files of two models

@pytest.mark.parametrize("include", [["transformer/*"], ["*.json"]])
def test_a_part_of_another_model(double: Double, hub: str, model: Path, half_precision: Path, include: list[str]) -> None:
    """Weights without their danqing.json, or danqing.json without its weights."""
    push(model, f"{hub}:{NAME}")
    before = double.content(hub, NAME)
    with pytest.raises(RequestError, match="other files than the danqing.json there lists: transformer/model.safetensors"):
        push(half_precision, f"{hub}:{NAME}", include=include)
    assert double.content(hub, NAME) == before
    push(model, f"{hub}:{NAME}", include=["transformer/*", "*.json"])      # the same model is no mixture


def test_what_is_left_out_is_not_listed(double: Double, hub: str, model: Path, tmp_path: Path) -> None:
    done = push(model, f"{hub}:{NAME}", exclude=["legacy/"])
    listed = json.loads(double.content(hub, NAME)[manifests.NAME])["files"]
    assert "legacy/config.json" not in listed and "transformer/model.safetensors" in listed
    assert any("legacy/config.json" in note for note in done.notes)
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert check(tmp_path / "out") == []
    assert "Nothing to push" in push(model, f"{hub}:{NAME}", exclude=["legacy/"]).describe()
    push(model, f"{hub}:{NAME}")                # and the rest later
    assert double.content(hub, NAME)[manifests.NAME] == (model / manifests.NAME).read_bytes()


def test_a_foreign_model_that_would_hide_this_one(double: Double, hub: str, model: Path, painter_copy: Path) -> None:
    (model / manifests.NAME).unlink()
    double.fill(hub, NAME, model)
    with pytest.raises(RequestError, match="would be read instead of these: pytorch_model.bin"):
        push(painter_copy, f"{hub}:{NAME}", card=False)
    assert "pytorch_model.bin" not in double.content(hub, NAME)


def test_pickles_of_a_foreign_model_do_not_matter(double: Double, hub: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "old/transformer").mkdir(parents=True)
    (tmp_path / "old/transformer/pytorch_model.bin").write_bytes(b"old")
    (tmp_path / "old/model.ckpt").write_bytes(b"old")
    double.fill(hub, NAME, tmp_path / "old")
    assert any("left as they are: model.ckpt" in note for note in push(model, f"{hub}:{NAME}").notes)


def test_a_damaged_manifest_on_the_hub(double: Double, hub: str, model: Path) -> None:
    folder = Path(shutil.copytree(model, model.with_name("damaged")))
    (folder / manifests.NAME).write_text("{")
    double.fill(hub, NAME, folder)
    (model / manifests.NAME).unlink()
    assert push(model, f"{hub}:{NAME}").removed == (manifests.NAME,)


# ---- somebody else, and answers that are lost

def test_somebody_else_pushes_while_files_travel(double: Double, hub: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(model, f"{hub}:{NAME}")
    (model / "NOTICE").write_text("ours")
    real = double.answer

    def race(handler: Any, request: str, body: bytes, failure: Any) -> None:
        real(handler, request, body, failure)
        if "NOTICE" not in str(double.repo(hub, NAME).messages) and ("preupload" in request or "objects/batch" in request):
            repo, branch = double.repo(hub, NAME), "main" if hub == "hf" else "master"
            repo.add(branch, {**(repo.files(branch) or {}), "theirs": next(iter(double.blobs))}, "NOTICE of theirs")

    (model / "more.png").write_bytes(bytes(2 << 20))
    monkeypatch.setattr(double, "answer", race)
    with pytest.raises(HubError, match="changed by somebody else meanwhile; run the same command again"):
        push(model, f"{hub}:{NAME}")
    assert double.repo(hub, NAME).messages[-1] == "NOTICE of theirs"
    push(model, f"{hub}:{NAME}")
    assert {"theirs", "NOTICE"} <= double.content(hub, NAME).keys()


@pytest.mark.parametrize("status", [500, 504])
def test_a_gateway_that_tires_of_a_commit(double: Double, hub: str, model: Path, impatient: list[float], status: int) -> None:
    """The commit is made, and the answer says that it is not, or a second attempt that there is nothing to do."""
    double.fail("/commit/", "done", status)
    double.fail("/commit/", "status", 400, times=9)
    assert push(model, f"{hub}:{NAME}", tag="v1").describe().startswith("Pushed")
    assert double.repo(hub, NAME).messages[1:] and "model_index.json" in double.content(hub, NAME, "v1")


# ---- tags and visibility

def test_a_tag_that_is_behind(double: Double, hub: str, model: Path) -> None:
    push(model, f"{hub}:{NAME}", tag="v1")
    (model / "NOTICE").write_text("new")
    push(model, f"{hub}:{NAME}")
    with pytest.raises(RequestError, match="has a tag v1 already, and it names other files"):
        push(model, f"{hub}:{NAME}", tag="v1")
    assert push(model, f"{hub}:{NAME}", tag="v2").tag == "v2"
    assert "NOTICE" in double.content(hub, NAME, "v2") and "NOTICE" not in double.content(hub, NAME, "v1")


@pytest.mark.parametrize("tag", ["v 1", "../x", "-v1", "v1.lock", "", "a..b"])
def test_no_name_for_a_tag(double: Double, hub: str, model: Path, tag: str) -> None:
    with pytest.raises(RequestError, match="no name for a revision"):
        push(model, f"{hub}:{NAME}", tag=tag)
    assert double.requests == []


def test_a_tag_called_like_a_branch(double: Double, hub: str, model: Path) -> None:
    push(model, f"{hub}:{NAME}")
    with pytest.raises(RequestError, match="is a branch"):
        push(model, f"{hub}:{NAME}", tag="main" if hub == "hf" else "master")


def test_what_should_be_private_and_is_public(double: Double, hub: str, model: Path) -> None:
    push(model, f"{hub}:{NAME}")
    (model / "NOTICE").write_text("secret")
    with pytest.raises(RequestError, match="there already and public"):
        push(model, f"{hub}:{NAME}", private=True)
    assert "NOTICE" not in double.content(hub, NAME)
    double.repo(hub, NAME).private = True
    push(model, f"{hub}:{NAME}", private=True)
    assert "NOTICE" in double.content(hub, NAME)


# ---- names, cards, additions

@pytest.mark.parametrize("name", ["nul.md", "a:b.md", "what?.png", "LICENSE ", "COM1.md"])
def test_names_that_windows_does_not_keep(double: Double, hub: str, model: Path, name: str) -> None:
    (model / name).write_bytes(b"x")
    with pytest.raises(RequestError, match="rename them"):
        push(model, f"{hub}:{NAME}")
    assert double.requests == []


def test_cards_written_on_windows(double: Double, hub: str, model: Path) -> None:
    from danqing_pack.cards import write_card

    (model / "README.md").unlink()
    write_card(model)
    write_card(model, model / "README.zh.md", language="zh")
    for card in model.glob("README*.md"):
        card.write_bytes(b"\xef\xbb\xbf" + card.read_bytes().replace(b"\n", b"\r\n"))
    push(model, f"{hub}:{NAME}")
    for name in ("README.md", "README.zh.md"):
        sent = double.content(hub, NAME)[name]
        assert sent.startswith(b"---\n") and b"\r" not in sent and f'danqing.load("{hub}:{NAME}")'.encode() in sent


def test_a_second_card_may_be_any_text(double: Double, hub: str, model: Path) -> None:
    (model / "README.zh.md").write_text("# 画家\n", encoding="utf-8")
    push(model, f"{hub}:{NAME}")
    assert double.content(hub, NAME)["README.zh.md"].decode() == "# 画家\n"


def test_a_lora_goes_without_a_card(double: Double, hub: str, golden: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden / "diffusers-2023/lora_attn_procs", tmp_path / "lora"))
    done = push(folder, f"{hub}:{NAME}")
    assert "pytorch_lora_weights.bin" in double.content(hub, NAME) and any("No README.md goes" in note for note in done.notes)


def test_digests_of_an_addition_are_taken_anew(double: Double, hub: str, golden: Path, tmp_path: Path) -> None:
    """Nothing has compared them, and a hub that is told a wrong digest keeps other bytes under the name."""
    folder = Path(shutil.copytree(golden / "diffusers-2023/lora_attn_procs", tmp_path / "lora"))
    manifests.write(folder, family="lora", layout="diffusers", dimensions={}, source={},
                    files={"pytorch_lora_weights.bin": "0" * 64})
    with pytest.raises(RequestError, match="other files than the danqing.json"):
        push(folder, f"{hub}:{NAME}", card=False)
    assert double.received == 0
