"""The weights of the best validation: chosen, kept through interruptions, and left by both recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import danqing.train.painter as recipe
import pytest
import torch
from danqing import cli
from danqing.mini.making import write_tables
from danqing.train.best import BestWeights
from danqing.train.loop import LoopOptions
from danqing.train.painter import PainterOptions, train_painter
from danqing.train.vqgan import VqganOptions, train_vqgan
from danqing_pack.errors import RequestError
from diffusers import VQModel
from safetensors.torch import load_file
from torch import nn

SMALL = dict(block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=8, num_vq_embeddings=16, vq_embed_dim=4,
             down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=64)
LOOP = LoopOptions(steps=8, batch_size=4, learning_rate=1e-2, log_every=1, save_every=3, validate_every=1, choose="best")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_tables(folder, rows=16, seed=1, validation_rows=4)
    torch.manual_seed(0)
    VQModel(**SMALL).save_pretrained(folder / "stage")
    (folder / "sizes.json").write_text(json.dumps({"n_layer": 1, "n_head": 2, "n_embd": 16}))
    return folder


@pytest.fixture
def options(work: Path, tmp_path: Path) -> PainterOptions:
    return PainterOptions(data=f"{work}/train.tsv", validation=f"{work}/validation.tsv", model=f"{work}/sizes.json",
                          output=f"{tmp_path}/out", first_stage=f"{work}/stage", vocab=f"{work}/vocab.txt", loop=LOOP)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], dict[int, dict[str, torch.Tensor]]]:
    """Makes the validations give these values; returns the weights that were judged, by the number of the step."""

    def judge(values: list[float]) -> dict[int, dict[str, torch.Tensor]]:
        seen: dict[int, dict[str, torch.Tensor]] = {}
        log = recipe.Loop.log

        def note(self: Any, step: int, found: dict[str, float], kind: str = "train") -> None:
            if kind == "validation":
                found["loss"] = values[step - 1]
            log(self, step, found, kind)

        def validate(model: nn.Module, source: Any, loop: Any) -> float:
            seen[len(seen) + 1] = {name: value.clone() for name, value in model.state_dict().items()}
            return 0.0

        monkeypatch.setattr(recipe.Loop, "log", note)
        monkeypatch.setattr(recipe, "validate", validate)
        return seen

    return judge


def weights(output: str) -> dict[str, torch.Tensor]:
    return load_file(Path(output) / "model/transformer/model.safetensors")


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_model_is_that_of_the_lowest_validation(
        options: PainterOptions, judged: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    seen = judged([5, 4, 3, 2, 6, 2, float("nan"), 7])
    train_painter(options)
    assert equal(weights(options.output), seen[4]) and not equal(weights(options.output), seen[8])
    assert "Took the weights of step 4, whose validation 2 is the lowest." in capsys.readouterr().out
    notes = json.loads((Path(options.output) / "training.json").read_text())
    assert notes["weights_of_step"] == 4 and notes["loop"]["choose"] == "best"
    # a finished run that is asked again gives the same
    train_painter(replace(options, loop=replace(LOOP, resume=True)))
    assert equal(weights(options.output), seen[4])


def test_the_last_weights_are_the_default(options: PainterOptions, judged: Callable[..., Any]) -> None:
    seen = judged([1, 2, 3, 4, 5, 6, 7, 8])
    train_painter(replace(options, loop=replace(LOOP, choose=LoopOptions().choose)))
    assert equal(weights(options.output), seen[8]) and not (Path(options.output) / "best").exists()


@pytest.mark.parametrize("stops", [2, 4, 5, 7])
@pytest.mark.parametrize("values", [[5, 4, 3, 2, 1, 6, 7, 8], [5, 1, 3, 0.5, 6, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8],
                                    [8, 7, 6, 5, 4, 3, 2, 1]])
def test_a_killed_run_finds_the_same_weights(
        stops: int, values: list[float], options: PainterOptions, judged: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    seen = judged(values)
    step = recipe.Loop.step

    def broken(self: Any, model: Any, optimizer: Any, losses: Any, number: int) -> float:
        if number == stops:
            raise Stopped
        return step(self, model, optimizer, losses, number)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(recipe.Loop, "step", broken)
        train_painter(options)
    judged_before = {key: seen[key] for key in sorted(seen)}
    seen.clear()
    done = stops // 3 * 3
    train_painter(replace(options, loop=replace(LOOP, resume=True)))
    everything = {key: judged_before[key] for key in range(1, done + 1)} | {done + key: seen[key] for key in seen}
    assert sorted(everything) == list(range(1, 9))
    assert equal(weights(options.output), everything[values.index(min(values)) + 1])
    assert len(list((Path(options.output) / "best").iterdir())) == 1


def test_what_came_after_the_checkpoint_does_not_count(
        options: PainterOptions, judged: Callable[..., Any]) -> None:
    """Two runs need not be equal bit for bit on every device: the weights must be those of the run that is told of."""
    values: list[float] = [5, 2, 3, 1]
    seen = judged(values)
    with pytest.raises(IndexError):
        train_painter(options)      # ends where the values end, after the validation of step 4
    before = dict(seen)
    seen.clear()
    values[3:] = [9, 9, 9, 9, 9]
    train_painter(replace(options, loop=replace(LOOP, resume=True)))
    assert equal(weights(options.output), before[2])


def test_what_is_kept(tmp_path: Path) -> None:
    best, network = BestWeights(tmp_path / "best"), nn.Linear(2, 2)
    assert best.step() is None and best.value() == float("inf")
    for step, value in ((10, 3.0), (20, 2.0), (30, 2.0), (40, 1.0), (50, float("nan"))):
        nn.init.constant_(network.weight, step)
        best.consider(step, value, network)
    assert (best.step(), best.value()) == (40, 1.0)
    best.forget_after(39)
    assert (best.step(), best.value()) == (20, 2.0)
    best.settle()
    best.load(network)
    assert network.weight[0, 0] == 20 and len(list((tmp_path / "best").iterdir())) == 1
    best.forget_after(19)
    assert best.step() is None


def test_the_first_stage_chooses_too(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SMALL}))
    line = ["train", "vqgan", f"--data={work}/train.tsv", f"--model={tmp_path}/config.json", f"--output={tmp_path}/v",
            "--steps=3", "--batch-size=2", "--validate-every=1", "--choose=best", "--learning-rate=0.3"]
    assert cli.main(line) == 1
    assert "--choose best needs --validation" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()
    assert cli.main([*line, f"--validation={work}/validation.tsv"]) in (0, None)
    journal = [json.loads(each) for each in (tmp_path / "v/log.jsonl").read_text().splitlines()]
    found = {each["step"]: each["absolute"] for each in journal if each["kind"] == "validation"}
    best = min(found, key=lambda step: found[step])
    assert json.loads((tmp_path / "v/training.json").read_text())["weights_of_step"] == best
    kept = load_file(tmp_path / f"v/best/step-{best:08d}/weights.safetensors")
    assert equal(load_file(tmp_path / "v/model/diffusion_pytorch_model.safetensors"), kept)


def test_a_run_that_kept_nothing(options: PainterOptions) -> None:
    train_painter(replace(options, loop=replace(LOOP, steps=1, choose="last")))
    with pytest.raises(RequestError, match="No validation in .* kept its weights"):
        train_painter(replace(options, loop=replace(LOOP, steps=1, resume=True)))
    with pytest.raises(RequestError, match="The choice 'newest' is none of last, best"):
        LoopOptions(choose="newest")
    assert VqganOptions(data="", model="", output="").loop.choose == "last"


def test_precisions_follow_each_other_in_one_process(options: PainterOptions, tmp_path: Path) -> None:
    for precision in ("bf16", "no", "bf16"):
        loop = replace(LOOP, steps=1, precision=precision)
        train_painter(replace(options, output=f"{tmp_path}/{precision}", loop=replace(loop, resume=True)))


def test_fp16_on_a_cpu_is_refused_with_a_sentence(options: PainterOptions, work: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)    # a GPU that the run does not use is of no help
    with pytest.raises(RequestError, match="fp16 training needs a CUDA device; take bf16 or no reduced precision"):
        train_painter(replace(options, loop=replace(LOOP, precision="fp16")))
    assert not Path(options.output).exists()
    with pytest.raises(RequestError, match="--adversarial-weight cannot be trained in fp16"):
        train_vqgan(VqganOptions(data=f"{work}/train.tsv", model=f"{work}/stage", output=f"{tmp_path}/v",
                                 adversarial_weight=0.1, loop=LoopOptions(precision="fp16")))
