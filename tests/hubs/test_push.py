"""Pushing: what is refused before a byte is sent, what travels, and what the hub shows afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from danqing_pack import manifests
from danqing_pack.errors import FormatError, HubError, RequestError, UnsafeError
from danqing_pack.pushing import push

NAME = "org/painter"
Double = Any


def sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_everything_arrives_in_one_commit(double: Double, hub: str, model: Path) -> None:
    done = push(model, f"{hub}:{NAME}", tag="v1.0.0", message="the first one")
    there = double.content(hub, NAME)
    assert {name: len(data) for name, data in there.items() if name != ".gitattributes" and name != "README.md"} == {
        name: size for name, size in sizes(model).items() if name != "README.md"}
    assert there["transformer/model.safetensors"] == (model / "transformer/model.safetensors").read_bytes()
    assert double.repo(hub, NAME).messages == ["initial commit", "the first one"]
    assert double.content(hub, NAME, "v1.0.0") == there
    listed = len(json.loads((model / manifests.NAME).read_text())["files"])
    assert f"{listed} digests there equal those in danqing.json" in done.describe()
    assert done.describe().endswith(f"{double.address}/{'models/' if hub == 'ms' else ''}{NAME}")


def test_again_sends_what_changed_and_takes_away_what_went(double: Double, hub: str, model: Path) -> None:
    push(model, f"{hub}:{NAME}")
    received, requests = double.received, len(double.requests)
    assert "Nothing to push" in push(model, f"{hub}:{NAME}").describe()
    assert not any("commit" in each and "POST" in each for each in double.requests[requests:])

    manifest = json.loads((model / manifests.NAME).read_text())
    (model / "legacy/config.json").unlink()
    manifest["files"].pop("legacy/config.json")
    (model / manifests.NAME).write_text(json.dumps(manifest))
    done = push(model, f"{hub}:{NAME}")
    assert [file.name for file in done.changed] == [manifests.NAME] and done.removed == ("legacy/config.json",)
    assert "legacy/config.json" not in double.content(hub, NAME)
    assert double.received == received          # weights stayed where they are
    assert len(double.repo(hub, NAME).messages) == 3


def test_a_dry_run_touches_nothing(double: Double, hub: str, model: Path) -> None:
    (model / "README.md").unlink()
    before = sizes(model)
    done = push(model, f"{hub}:{NAME}", dry_run=True, tag="v1")
    assert (hub, NAME) not in double.repos and sizes(model) == before
    assert {file.name: file.size for file in done.changed} == before
    assert done.describe().startswith("Would push") and any("README.md would be written" in note for note in done.notes)
    assert {each.split()[0] for each in double.requests} <= {"GET", "HEAD"}


def test_a_damaged_folder_is_refused_before_a_byte(double: Double, hub: str, model: Path) -> None:
    with (model / "vqvae/diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(FormatError, match="nothing was sent.*vqvae/diffusion_pytorch_model.safetensors is not the file"):
        push(model, f"{hub}:{NAME}")
    assert double.requests == []


def test_plugins_in_the_configuration_are_refused(double: Double, hub: str, model: Path) -> None:
    (model / manifests.NAME).unlink()
    settings = json.loads((model / "configuration.json").read_text())
    (model / "configuration.json").write_text(json.dumps({**settings, "allow_remote": True}))
    with pytest.raises(FormatError, match="trust_remote_code"):
        push(model, f"{hub}:{NAME}")
    assert double.requests == []


def test_a_missing_configuration_is_made_on_the_way(double: Double, painter_copy: Path) -> None:
    push(painter_copy, f"ms:{NAME}", card=False)
    made = json.loads(double.content("ms", NAME)["configuration.json"])
    assert made["pipeline"] == {"type": "danqing"} and not (painter_copy / "configuration.json").exists()


def test_a_file_too_large_is_refused_before_a_byte(double: Double, hub: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danqing_pack.hubs import HUBS

    monkeypatch.setattr(type(HUBS[hub]), "largest_file", 1000)
    with pytest.raises(RequestError, match="save them in shards"):
        push(model, f"{hub}:{NAME}")
    assert (hub, NAME) not in double.repos


def test_more_files_than_a_commit_takes(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelscope_hub import constants

    monkeypatch.setattr(constants, "COMMIT_MAX_ACTIONS_PER_REQUEST", 10)
    with pytest.raises(RequestError, match="10 files in one commit and this push changes"):
        push(model, f"ms:{NAME}")
    assert ("ms", NAME) not in double.repos


def test_names_that_no_hub_keeps(double: Double, hub: str, model: Path) -> None:
    (model / "a\nb.md").write_text("x")
    with pytest.raises(RequestError, match="rename them"):
        push(model, f"{hub}:{NAME}")
    assert double.requests == []


def test_include_and_exclude(double: Double, hub: str, model: Path) -> None:
    (model / "train.log").write_text("loss")
    (model / manifests.NAME).unlink()           # which would have to list everything
    done = push(model, f"{hub}:{NAME}", exclude=["legacy/"])
    assert "train.log" not in double.content(hub, NAME) and "legacy/config.json" not in double.content(hub, NAME)
    assert any("train.log" in note for note in done.notes)
    push(model, f"{hub}:{NAME}", include=["*.log"])
    assert "train.log" in double.content(hub, NAME) and "model_index.json" in double.content(hub, NAME)


def test_private_and_revision(double: Double, model: Path) -> None:
    push(model, f"hf:{NAME}", private=True, revision="dev", tag="v2")
    assert double.repo("hf", NAME).private
    assert "model_index.json" in double.content("hf", NAME, "dev") and "model_index.json" not in double.content("hf", NAME)
    assert "model_index.json" in double.content("hf", NAME, "v2")
    push(model, f"ms:{NAME}", private=True)
    assert double.repo("ms", NAME).private
    said: list[str] = []
    for target, dry_run in ((NAME, False), (NAME, True), ("org/new", False)):
        with pytest.raises(RequestError, match="cannot make the branch dev"):
            push(model, f"ms:{target}@dev", dry_run=dry_run, say=said.append)
    assert not said and ("ms", "org/new") not in double.repos


def test_a_mirror_makes_no_repository_for_a_branch_that_cannot_be(double: Double, model: Path) -> None:
    from danqing_pack.mirroring import mirror

    double.fill("hf", NAME, model)
    with pytest.raises(RequestError, match="cannot make the branch dev"):
        mirror(f"hf:{NAME}", "ms:org/new@dev")
    assert ("ms", "org/new") not in double.repos


@pytest.mark.parametrize("name", ["vocab.txt", "train_config.json", "sample.png"])
def test_a_link_out_of_the_folder_is_not_followed(double: Double, hub: str, painter_copy: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((painter_copy / name).read_bytes() if (painter_copy / name).is_file() else b"{}")
    (painter_copy / name).unlink(missing_ok=True)
    (painter_copy / name).symlink_to(secret)
    with pytest.raises(UnsafeError, match=f"{name} is a link that leads out of the checkpoint"):
        push(painter_copy, f"{hub}:{NAME}")
    assert double.received == 0


def test_links_inside_and_into_the_cache_are_followed(double: Double, hub: str, painter_copy: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in painter_copy.iterdir():
        (blobs / f"of-{path.name}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/of-{path.name}")
    (painter_copy / "vocab.txt").rename(painter_copy / "words")
    (painter_copy / "vocab.txt").symlink_to("words")
    for number, folder in enumerate((snapshot, painter_copy)):
        push(folder, f"{hub}:{NAME}{number}", card=False)
        assert double.content(hub, f"{NAME}{number}")["vocab.txt"] == (painter_copy / "words").read_bytes()


def test_a_tag_that_names_something_else(double: Double, hub: str, model: Path) -> None:
    push(model, f"{hub}:{NAME}", tag="v1.0.0")
    push(model, f"{hub}:{NAME}", tag="v1.0.0")          # the same again: nothing to do
    before = double.content(hub, NAME)
    (model / "NOTICE").write_text("new")
    with pytest.raises(RequestError, match="choose another tag"):
        push(model, f"{hub}:{NAME}", tag="v1.0.0")
    assert double.content(hub, NAME) == before
    with pytest.raises(RequestError, match="is a tag"):
        push(model, f"{hub}:{NAME}@v1.0.0")


def test_a_card_on_the_hub_survives_a_folder_without_one(double: Double, hub: str, model: Path) -> None:
    push(model, f"{hub}:{NAME}")
    card = double.content(hub, NAME)["README.md"]
    (model / "README.md").unlink()
    assert any("Kept the README.md" in note for note in push(model, f"{hub}:{NAME}").notes)
    assert double.content(hub, NAME)["README.md"] == card and not (model / "README.md").exists()


def test_a_card_that_was_edited_on_the_hub_is_not_replaced_without_a_word(double: Double, hub: str, model: Path) -> None:
    assert not any("is replaced" in note for note in push(model, f"{hub}:{NAME}").notes), "the hub's own placeholder is no news"
    assert not any("is replaced" in note for note in push(model, f"{hub}:{NAME}").notes)
    (model / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert any("is replaced by the folder's; --exclude README.md keeps it" in note
               for note in push(model, f"{hub}:{NAME}", dry_run=True).notes)
    push(model, f"{hub}:{NAME}", exclude=["README.md"])
    assert b"A small painter" in double.content(hub, NAME)["README.md"]


@pytest.mark.parametrize("target", ["org/name", "hf:name", "xx:org/name", "hf:org/name/more", "hf:../name", "ms:org/name@"])
def test_no_repository(double: Double, model: Path, target: str) -> None:
    with pytest.raises(RequestError, match="names no repository"):
        push(model, target)
    assert double.requests == []


def test_somebody_else_pushes_meanwhile(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(model, f"hf:{NAME}")
    (model / "NOTICE").write_text("new")
    from danqing_pack import pushing

    real = pushing._send

    def race(*words: Any) -> str:
        repo = double.repo("hf", NAME)
        repo.add("main", dict(repo.files("main") or {}), "theirs")
        return real(*words)

    monkeypatch.setattr(pushing, "_send", race)
    with pytest.raises(HubError, match="changed by somebody else"):
        push(model, f"hf:{NAME}")
    assert double.repo("hf", NAME).messages[-1] == "theirs"
