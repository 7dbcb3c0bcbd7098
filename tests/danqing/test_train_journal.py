"""What a run notes for people: log.jsonl, TensorBoard, sample pictures; and the quiet of the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing import cli
from danqing.mini.making import write_tables
from danqing.train.loop import Loop
from diffusers import VQModel

STAGE = dict(block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=8, num_vq_embeddings=16, vq_embed_dim=4,
             down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=64)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_tables(folder, rows=8, seed=1, validation_rows=4)
    torch.manual_seed(0)
    VQModel(**STAGE).save_pretrained(folder / "stage")
    (folder / "sizes.json").write_text(json.dumps({"n_layer": 1, "n_head": 2, "n_embd": 16}))
    return folder


def words(recipe: str, work: Path, output: Path, *more: str) -> list[str]:
    own = ([f"--model={work}/stage"] if recipe == "vqgan" else [
        f"--model={work}/sizes.json", f"--first-stage={work}/stage", f"--vocab={work}/vocab.txt", "--prompts", "红色圆形"])
    return ["train", recipe, f"--data={work}/train.tsv", f"--validation={work}/validation.tsv", f"--output={output}",
            "--steps=4", "--batch-size=2", "--log-every=1", "--save-every=2", "--validate-every=2", "--sample-every=2",
            "--tensorboard", *more, *own]


def events(output: Path) -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(output / "tensorboard"))
    found.Reload()
    return found


def journal(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe, picture", [("painter", "samples"), ("vqgan", "reconstruction")])
def test_tensorboard_shows_what_the_journal_says(
        recipe: str, picture: str, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    assert cli.main(words(recipe, work, tmp_path / "out")) in (0, None)
    shown, expected = events(tmp_path / "out"), Counter[str]()
    for line in journal(tmp_path / "out"):
        for name in line.keys() - {"step", "kind"}:
            tag = f"{line['kind']}/{name}"
            found = {each.step: each.value for each in shown.Scalars(tag)}
            assert found[line["step"]] == pytest.approx(line[name], rel=1e-5)
            expected[tag] += 1
    assert {tag: len(shown.Scalars(tag)) for tag in shown.Tags()["scalars"]} == expected
    assert [each.step for each in shown.Images(picture)] == [2, 4]
    assert [path.name for path in sorted((tmp_path / "out/samples").iterdir())] == [
        f"{picture}-00000002.png", f"{picture}-00000004.png"]
    assert "it/s" not in capfd.readouterr().err


def test_steps_that_are_done_again_are_shown_once(
        work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    step = Loop.step

    def stops(self: Any, model: Any, optimizer: Any, losses: Any, number: int) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, model, optimizer, losses, number)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stops)
        assert cli.main(words("painter", work, tmp_path / "out")) == 130
    assert cli.main(words("painter", work, tmp_path / "out", "--resume")) in (0, None)
    assert [each.step for each in events(tmp_path / "out").Scalars("train/loss")] == [1, 2, 3, 4]
    assert [line["step"] for line in journal(tmp_path / "out") if line["kind"] == "train"] == [1, 2, 3, 4]


def test_without_tensorboard_the_remedy_is_named(
        work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert cli.main(words("painter", work, tmp_path / "out")) == 1
    assert "pip install 'danqing[train]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more, sentence", [
    (["--output=/proc/nowhere"], "The run cannot be written to /proc/nowhere"),
    (["--warmup=-1"], "warmup cannot be -1, below 0."), (["--sample-every=-1"], "sample every cannot be -1"),
    (["--final-rate=2"], "The final rate is a share from 0 to 1, not 2.0."), (["--clip=0"], "must be above 0, not 0.0"),
    (["--betas", "0.9", "1"], "The betas lie from 0 to below 1"), (["--weight-decay=-1"], "weight decay cannot be -1.0"),
    (["--encoder-every=0"], "--encoder-every is at least 1"), (["--size=50"], "--size 50 is no multiple of 8"),
])
def test_a_run_that_cannot_be(
        more: list[str], sentence: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in words("vqgan", work, tmp_path / "out") if word != "--tensorboard"]
    assert cli.main([*line, *more]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_a_sentence(
        work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/log.jsonl").symlink_to("/dev/full")
    assert cli.main(words("painter", work, tmp_path / "out")) == 1
    assert "cannot be written to" in (printed := capsys.readouterr().err) and "No space left on device" in printed


def test_an_interrupted_run_says_how_to_go_on(
        work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stops(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step", stops)
    assert cli.main(words("painter", work, tmp_path / "out")) == 130
    assert f"--resume goes on after the last checkpoint in {tmp_path}/out." in capsys.readouterr().err


@pytest.mark.parametrize("sizes, sentence", [
    ({"n_layer": "two"}, "n_layer is a whole number of at least 1, not 'two'"),
    ({"n_layer": True}, "n_layer is a whole number"), ({"n_head": 5, "n_embd": 16}, "n_embd 16 is no multiple of n_head 5"),
    ({"n_head": 5}, "n_embd 768 is no multiple of n_head 5"), ({"attn_pdrop": 1}, "attn_pdrop is a share from 0"),
    ([1], "holds no JSON object"), ("nothing", "holds no JSON object"), ({"width": 3}, "names width, which no painter has"),
])
def test_sizes_that_cannot_be(
        sizes: Any, sentence: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    assert cli.main([*words("painter", work, tmp_path / "out"), f"--model={tmp_path}/sizes.json"]) == 1
    assert sentence in capsys.readouterr().err
    assert cli.main([*words("vqgan", work, tmp_path / "out"), f"--model={tmp_path}/sizes.json"]) == 1
    assert "is no VQModel config" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_samples_need_texts(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in words("painter", work, tmp_path / "out") if word not in ("--prompts", "红色圆形")]
    assert cli.main(line) == 1
    assert "--sample-every needs --prompts" in capsys.readouterr().err


def test_what_a_run_without_a_checkpoint_left_is_forgotten(
        work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    step = Loop.step

    def stops(self: Any, model: Any, optimizer: Any, losses: Any, number: int) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, model, optimizer, losses, number)

    line = [*words("painter", work, tmp_path / "out"), "--save-every=4", "--validate-every=1", "--choose=best"]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stops)
        assert cli.main(line) == 130
    best = tmp_path / "out/best"
    for value in best.glob("*/value.json"):     # better than anything that the second run will find
        value.write_text(json.dumps({"value": 0.0}))
    with open(tmp_path / "out/log.jsonl", "a") as file:
        file.write('{"step": 4, "ki')
    assert cli.main(line) in (0, None)
    assert [each["step"] for each in journal(tmp_path / "out") if each["kind"] == "train"] == [1, 2, 3, 4]
    assert "whose validation 0 is" not in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = words("painter", work, tmp_path / "out", "--resume")
    assert cli.main(line) in (0, None)
    with open(tmp_path / "out/log.jsonl", "a") as file:
        file.write('{"step": 4, "ki')
    assert cli.main([*line, "--steps=5"]) in (0, None)
    (tmp_path / "wider.json").write_text(json.dumps({"n_layer": 1, "n_head": 2, "n_embd": 32}))
    record = tmp_path / "out/run.json"
    record.rename(tmp_path / "aside.json")      # as a run of an earlier version left its folder
    capsys.readouterr()
    assert cli.main([*line, "--steps=5", f"--model={tmp_path}/wider.json"]) == 1
    assert "belongs to another model (Error(s) in loading state_dict for PainterTransformer): go on" in capsys.readouterr().err
    (tmp_path / "aside.json").rename(record)
    for name in ("model.safetensors", "optimizer.bin", "random_states_0.pkl"):
        damaged = tmp_path / "out/checkpoints/step-00000005" / name
        content = damaged.read_bytes()
        damaged.write_bytes(content[:100])
        assert cli.main([*line, "--steps=6"]) == 1
        assert "step-00000005 is damaged" in capsys.readouterr().err
        damaged.write_bytes(content)


def test_a_run_goes_on_as_it_began(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in words("painter", work, tmp_path / "out", "--sample-every=0") if word != "--tensorboard"]
    assert cli.main(line) in (0, None)
    began = (tmp_path / "out/run.json").read_bytes(), (tmp_path / "out/training.json").read_bytes()
    (tmp_path / "wider.json").write_text(json.dumps({"n_layer": 1, "n_head": 2, "n_embd": 32}))
    (tmp_path / "odd.txt").write_text((work / "vocab.txt").read_text("utf-8") + "odd\n", "utf-8")
    for more, sentence in (
        ([f"--data={work}/validation.tsv", "--learning-rate=0.5", "--batch-size=1"],
         "was begun with another table, batch size and learning rate: go on with the same"),
        ([f"--model={tmp_path}/wider.json"], "another model:"), ([f"--vocab={tmp_path}/odd.txt"], "another vocab:"),
        ([f"--validation={work}/train.tsv"], "another validation table:"), (["--accumulation=2"], "another accumulation:"),
        (["--seed=1"], "another seed:"), (["--warmup=1"], "another warmup:"), (["--precision=bf16"], "another precision:"),
        (["--weight-decay=0"], "another weight decay:"),
        (["--clip=2"], "another clip:"), (["--betas", "0.9", "0.9"], "another betas:"),
        (["--random-crop"], "another random crop:"),
        (["--schedule=cosine"], "schedule and number of steps:"), (["--steps=3"], "already has 4 steps, more than the 3"),
    ):
        assert cli.main([*line, "--resume", "--steps=6", *more]) == 1
        assert sentence in capsys.readouterr().err
    assert began == ((tmp_path / "out/run.json").read_bytes(), (tmp_path / "out/training.json").read_bytes())
    assert cli.main([*line, "--resume"]) in (0, None)
    assert "already has all of its 4 steps: nothing is left to train." in capsys.readouterr().out
    (tmp_path / "moved.tsv").write_bytes((work / "train.tsv").read_bytes())
    more = ["--steps=6", "--log-every=2", "--save-every=3", "--keep=1", "--output-dtype=fp16", "--gradient-checkpointing"]
    assert cli.main([*line, "--resume", *more, f"--data={tmp_path}/moved.tsv"]) in (0, None)
    assert [each["step"] for each in journal(tmp_path / "out") if each["kind"] == "train"] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("more", [["--revive-every=5"], ["--schedule=linear", "--revive-every=0"]])
def test_a_length_that_the_losses_depend_on_stays(
        more: list[str], work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in words("vqgan", work, tmp_path / "out", *more) if word != "--tensorboard"]
    assert cli.main([*line, "--steps=1"]) in (0, None)
    assert cli.main([*line, "--steps=2", "--resume"]) == 1
    assert "was begun with another number of steps:" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["painter", "vqgan"])
def test_tables_of_other_forms(recipe: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (work / "train.tsv").read_text("utf-8").splitlines()
    moved = ["picture\twords"] + ["\t".join(row.split("\t")[:0:-1]) for row in rows]
    (tmp_path / "odd.tsv").write_text("".join(row + "\n" for row in moved), encoding="gbk")
    line = [word for word in words(recipe, work, tmp_path / "out") if word != "--tensorboard"]
    plain = [*line, "--sample-every=0"]
    assert cli.main(plain) in (0, None)
    line = [word.replace(f"{work}/train.tsv", f"{tmp_path}/odd.tsv").replace(f"{work}/validation.tsv", f"{tmp_path}/odd.tsv")
            .replace(f"{tmp_path}/out", f"{tmp_path}/other") for word in plain]
    assert cli.main(line) == 1
    odd = ["--input-schema=picture:str:1,words:str:1", "--text-column=words", "--image-column=picture", "--encoding=gbk"]
    assert cli.main([*line, *odd]) == 1     # the header is no picture
    assert "--skip-first-line" in capsys.readouterr().err
    assert cli.main([*line, *odd, "--skip-first-line"]) in (0, None)
    one, two = ([each["loss"] for each in journal(tmp_path / name) if each["kind"] == "train"] for name in ("out", "other"))
    assert one == two


@pytest.mark.slow
def test_two_processes_do_what_one_does(work: Path, tmp_path: Path) -> None:
    """Halves of each batch, one mean loss, one writer; and a checkpoint that both go on from."""
    own = [word for word in words("painter", work, tmp_path) if word != "--tensorboard"]
    assert cli.main([*own, f"--output={tmp_path}/one", "--batch-size=4", "--sample-every=0"]) in (0, None)

    def together(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "danqing", *own,
             f"--output={tmp_path}/two", "--batch-size=2", "--sample-every=0", *more],
            env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert together().count("Wrote") == 1
    one, two = journal(tmp_path / "one"), journal(tmp_path / "two")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-5)
    assert [line["step"] for line in two] == [line["step"] for line in one]
    checkpoints = tmp_path / "two/checkpoints"
    assert sorted(os.listdir(checkpoints)) == ["step-00000002", "step-00000004"]
    (checkpoints / "step-00000004").rename(checkpoints / ".step-00000004")      # as a kill in the middle leaves it
    together("--resume")
    assert journal(tmp_path / "two") == two
    assert sorted(os.listdir(checkpoints)) == ["step-00000002", "step-00000004"]
