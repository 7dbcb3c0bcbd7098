"""What the commands print: results on stdout, the rest on stderr, and one sentence for a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from danqing.cli import main

NAME = "org/painter"


def test_push_and_pull(double: Any, hub: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(model), f"{hub}:{NAME}", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "transformer/model.safetensors" in out and out.splitlines()[-1].startswith("Would push") and not double.repos
    assert main(["push", str(model), f"{hub}:{NAME}", "--tag", "v1.0.0", "--message", "first"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 and double.address in shown.out and "Sending" in shown.err
    assert main(["push", str(model), f"{hub}:{NAME}", "--dry-run"]) == 0
    assert "(there already)" in capsys.readouterr().out
    assert main(["pull", f"{hub}:{NAME}@v1.0.0", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Pulled") and "painter, diffusers layout" in shown.err
    assert main(["pull", f"{hub}:org/nothing", str(tmp_path / "no")]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1 and shown.err.startswith("danqing: ")


def test_a_variant_with_code_is_sent_and_the_folder_stays(
    double: Any, hub: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert main(["push", str(model), f"{hub}:{NAME}", "--self-contained", "--no-card"]) == 0, capsys.readouterr().err
    sent = double.content(hub, NAME)
    assert "pipeline.py" in sent and b"PainterPipeline" in sent["pipeline.py"] and "transformer/model.safetensors" in sent
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def test_the_card_of_a_variant_is_told_without_its_scratch_place(
    double: Any, hub: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(model), f"{hub}:{NAME}", "--self-contained", "--dry-run"]) == 0
    assert "since the self-contained variant has none" in capsys.readouterr().err
    assert main(["push", str(model), f"{hub}:{NAME}", "--self-contained"]) == 0
    said = capsys.readouterr().err
    assert "Wrote a README.md for the self-contained variant." in said and "danqing-" not in said
    assert "self-contained variant of the checkpoint" in double.content(hub, NAME)["README.md"].decode()
    (tmp_path / "secret").write_bytes((model / "tokenizer" / "vocab.txt").read_bytes())
    (model / "tokenizer" / "vocab.txt").unlink()
    (model / "tokenizer" / "vocab.txt").symlink_to(tmp_path / "secret")
    assert main(["push", str(model), f"{hub}:org/other", "--self-contained"]) == 1
    assert "leads out of the checkpoint" in capsys.readouterr().err and (hub, "org/other") not in double.repos


def test_the_variant_with_code_takes_the_place_of_the_plain_one(
    double: Any, hub: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And back: files of both would be neither."""
    from danqing_pack import check
    from danqing_pack.pulling import pull

    for number, words in enumerate(([], ["--self-contained"], [])):
        assert main(["push", str(model), f"{hub}:{NAME}", "--no-card", *words]) == 0, capsys.readouterr().err
        there = double.content(hub, NAME)
        assert ("pipeline.py" in there) == bool(words) and ("config.json" in there) != bool(words)
        pull(f"{hub}:{NAME}", model.with_name(f"out{number}"))
        assert check(model.with_name(f"out{number}")) == []


def test_mirror(double: Any, painter_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    double.fill("ms", NAME, painter_checkpoint)
    assert main(["mirror", f"ms:{NAME}", "hf:c/d", "--convert", "diffusers", "--dtype", "fp16"]) == 0
    assert capsys.readouterr().out.startswith("Pushed") and "model_index.json" in double.content("hf", "c/d")
    assert main(["mirror", f"ms:{NAME}", "hf:c/d", "--dtype", "fp16"]) == 1


def test_something_foreign_is_pulled_as_it_is(double: Any, hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("x")
    double.fill(hub, NAME, tmp_path / "notes")
    assert main(["pull", f"{hub}:{NAME}", str(tmp_path / "out")]) == 0
    assert "It was pulled as it is" in capsys.readouterr().err


def test_offline(place: Any, model: Path, tmp_path: Path) -> None:
    """What the cache holds is pulled without the network, and the rest is one sentence."""
    place.double.fill("hf", NAME, model)
    place.run("-c", f"from huggingface_hub import snapshot_download; snapshot_download('{NAME}')")
    place.double.requests.clear()
    done = place.danqing("pull", f"hf:{NAME}", tmp_path / "out", HF_HUB_OFFLINE="1")
    assert "all digests equal" in done.stdout and (tmp_path / "out/model_index.json").is_file()
    for words in (("pull", "hf:org/other", tmp_path / "no"), ("push", model, "hf:org/other")):
        done = place.danqing(*words, check=False, HF_HUB_OFFLINE="1")
        assert done.returncode == 1 and "HF_HUB_OFFLINE=1 forbids the network" in done.stderr
    assert place.double.requests == []


@pytest.mark.parametrize("page", ["hubs.md", "hubs.zh.md"])
def test_every_option_of_push_is_in_the_docs(page: str) -> None:
    import argparse

    from danqing.commands import push

    parser = argparse.ArgumentParser(add_help=False)
    push.add_arguments(parser)
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    options = [word for action in parser._actions for word in action.option_strings]
    assert len(options) > 5 and [word for word in options if f"`{word}" not in text] == []
