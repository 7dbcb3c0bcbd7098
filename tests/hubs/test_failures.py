"""Hubs that refuse, stumble, break off or lie: a finished transfer, or one sentence and nothing that looks whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from danqing_pack.errors import HubError
from danqing_pack.pulling import pull
from danqing_pack.pushing import push

NAME = "org/painter"
WEIGHTS = "transformer/model.safetensors"
Double = Any


def visible(double: Double, hub: str) -> set[str]:
    """What stands in the repository, less what the hub itself puts there."""
    return set(double.content(hub, NAME)) - {".gitattributes", "README.md"} if (hub, NAME) in double.repos else set()


def whole(double: Double, hub: str, model: Path) -> bool:
    here = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*")
            if path.is_file() and path.name != "README.md"}
    return here.items() <= double.content(hub, NAME).items()


PASSING = [("PUT /blob/", "status", 503), ("PUT /blob/", "status", 500), ("PUT /blob/", "drop", 50_000),
           ("PUT /blob/", "slow", 200), ("objects/batch", "status", 503), ("objects/batch", "status", 429)]


@pytest.mark.parametrize(("mark", "kind", "value"), PASSING)
def test_a_push_survives(double: Double, hub: str, model: Path, impatient: list[float], mark: str, kind: str, value: int) -> None:
    double.fail(mark, kind, value, times=2, Retry_After="7")
    push(model, f"{hub}:{NAME}")
    assert whole(double, hub, model)
    if value == 429:
        assert any(7 <= wait <= 8 for wait in impatient)


LASTING = [("PUT /blob/", "status", 503, "error of its own|503"), ("PUT /blob/", "drop", 50_000, "broke off|reached"),
           ("objects/batch", "status", 429, "asked too often"), ("/commit/", "status", 500, "error of its own"),
           ("/commit/", "status", 403, "may not do this"), ("/commit/", "status", 429, "asked too often")]


@pytest.mark.parametrize(("mark", "kind", "value", "words"), LASTING)
def test_a_push_that_fails_leaves_the_old_state(
    double: Double, hub: str, model: Path, impatient: list[float], mark: str, kind: str, value: int, words: str
) -> None:
    (model / "NOTICE").write_text("the first")
    push(model, f"{hub}:{NAME}")
    before = double.content(hub, NAME)
    weights = model / WEIGHTS
    (model / "danqing.json").unlink()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    (model / "NOTICE").write_text("the second")
    double.fail(mark, kind, value, times=99)
    with pytest.raises(HubError, match=words) as caught:
        push(model, f"{hub}:{NAME}")
    assert "nothing visible on the hub has changed" in str(caught.value) and "\n" not in str(caught.value)
    assert double.content(hub, NAME) == before
    double.failures.clear()
    push(model, f"{hub}:{NAME}")
    assert whole(double, hub, model)


def test_the_answer_to_a_commit_is_lost(double: Double, hub: str, model: Path, impatient: list[float]) -> None:
    double.fail("/commit/", "drop", 1)
    push(model, f"{hub}:{NAME}", tag="v1")
    assert whole(double, hub, model) and double.repo(hub, NAME).messages.count("initial commit") == 1
    assert len(double.repo(hub, NAME).messages) == 2


def test_a_hub_that_keeps_other_bytes(double: Double, hub: str, model: Path) -> None:
    double.fail("PUT /blob/", "corrupt")
    with pytest.raises(HubError, match="lists other digests than the files here have.*push again"):
        push(model, f"{hub}:{NAME}", tag="v1")
    assert double.repo(hub, NAME).tags == {}


@pytest.mark.parametrize(("kind", "value", "status"), [
    ("drop", 50_000, 0), ("status", 503, 503), ("status", 429, 429), ("slow", 300, 0)])
def test_a_pull_survives(double: Double, hub: str, painter_folder: Path, tmp_path: Path, impatient: list[float], kind: str,
                         value: int, status: int) -> None:
    double.fill(hub, NAME, painter_folder)
    double.fail("model.safetensors", kind, value, times=2, Retry_After="3")
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (painter_folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("kind", "value", "words"), [
    ("status", 503, "error of its own|did not arrive"), ("drop", 10, "reached|did not arrive"),
    ("corrupt", 0, "are not those that the hub lists")])
def test_a_pull_that_fails_leaves_nothing(
    double: Double, hub: str, painter_folder: Path, tmp_path: Path, impatient: list[float], kind: str, value: int, words: str
) -> None:
    double.fill(hub, NAME, painter_folder)
    double.fail("model.safetensors", kind, value, times=999)
    with pytest.raises(HubError, match=words) as caught:
        pull(f"{hub}:{NAME}", tmp_path / "out")
    assert not (tmp_path / "out").exists() and "\n" not in str(caught.value)
    double.failures.clear()
    pull(f"{hub}:{NAME}", tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (painter_folder / WEIGHTS).read_bytes()


def test_a_wrong_token(double: Double, hub: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(HubError, match="does not accept the token, or needs one; set (HF_TOKEN|MODELSCOPE_API_TOKEN)"):
        push(model, f"{hub}:{NAME}")
    assert (hub, NAME) not in double.repos and double.received == 0
    with pytest.raises(HubError):
        pull(f"{hub}:{NAME}", tmp_path / "out")


def test_no_token(double: Double, hub: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    said: list[str] = []
    (model / "README.md").unlink()
    with pytest.raises(HubError, match="needs a token for it, and there is none; set (HF_TOKEN|MODELSCOPE_API_TOKEN)"):
        push(model, f"{hub}:{NAME}", say=said.append)
    assert double.received == 0 and not said and not (model / "README.md").exists()
    [note] = [note for note in push(model, f"{hub}:{NAME}", dry_run=True).notes if "a token" in note]
    assert note.startswith("Nothing can be pushed yet: ")


def test_no_token_to_mirror_with(double: Double, hub: str, painter_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danqing_pack.mirroring import mirror

    double.fill(hub, NAME, painter_folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    other, said = {"hf": "ms", "ms": "hf"}[hub], []
    with pytest.raises(HubError, match="was not mirrored.*needs a token for it"):
        mirror(f"{hub}:{NAME}", f"{other}:{NAME}", say=said.append)
    assert not said and (other, NAME) not in double.repos
    assert any("needs a token" in note for note in mirror(f"{hub}:{NAME}", f"{other}:{NAME}", dry_run=True).notes)


def test_nothing_there(double: Double, hub: str, painter_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="no such repository for this token; check the name"):
        pull(f"{hub}:{NAME}", tmp_path / "out")
    double.fill(hub, NAME, painter_folder)
    with pytest.raises(HubError, match="no such (revision|repository)"):
        pull(f"{hub}:{NAME}@v9", tmp_path / "out")
    with pytest.raises(HubError, match="no file"):
        pull(f"{hub}:{NAME}", tmp_path / "out", include=["*.nothing"])
    assert not (tmp_path / "out").exists()


def test_nothing_there_for_somebody_without_a_token(double: Double, hub: str, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face answers 401 then, as it does for a token that is wrong; most such names are misspelt."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    with pytest.raises(HubError, match="no such repository for this token; check the name, and if it is private, set"):
        pull(f"{hub}:{NAME}", tmp_path / "out")


def test_a_gated_repository(double: Double, painter_folder: Path, tmp_path: Path) -> None:
    double.fill("hf", NAME, painter_folder)
    double.fail(f"/api/models/{NAME}", "status", 403, times=99, X_Error_Code="GatedRepo", X_Error_Message="ask first")
    with pytest.raises(HubError, match="asks to be asked for access; do so on its page of Hugging Face"):
        pull(f"hf:{NAME}", tmp_path / "out")


def test_an_endpoint_with_a_password(double: Double, hub: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danqing_pack.hubs import HUBS

    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, double.address.replace("://", "://somebody:geheim@"))
    assert "geheim" not in HUBS[hub].address(NAME) and NAME in HUBS[hub].address(NAME)


def test_a_private_repository(double: Double, hub: str, painter_folder: Path, tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    double.fill(hub, NAME, painter_folder).private = True
    pull(f"{hub}:{NAME}", tmp_path / "out")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    with pytest.raises(HubError, match="set (HF_TOKEN|MODELSCOPE_API_TOKEN)"):
        pull(f"{hub}:{NAME}", tmp_path / "other")


def test_nobody_answers(hub: str, place: Any, model: Path, tmp_path: Path, impatient: list[float],
                        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for step in (lambda: pull(f"{hub}:{NAME}", tmp_path / "out"), lambda: push(model, f"{hub}:{NAME}")):
        with pytest.raises(HubError, match="at http://127.0.0.1:9 cannot be reached"):
            step()
