"""Fine-tuning a chinese-ldm: the original's objective, exact resume, and a result that the original would sample with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing import cli, load
from danqing.train.latent import LatentOptions, NoisyLatents, train_latent
from danqing.train.loop import Loop, LoopOptions
from danqing_pack import check, detect
from danqing_pack.errors import FormatError
from danqing_pack.examples import open_examples

State = dict[str, torch.Tensor]
TABLE = Path(__file__).parent.parent / "golden/easynlp/tsv/train.tsv"
FEW = LoopOptions(steps=4, batch_size=2, learning_rate=1e-3, log_every=1, save_every=2)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows of the reference table."""
    file = tmp_path_factory.mktemp("table") / "train.tsv"
    file.write_text("".join(TABLE.read_text("utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    return file


@pytest.fixture
def small(make_checkpoint: Callable[..., tuple[Path, State]]) -> Path:
    """A checkpoint for pictures of 64 x 64."""
    folder, _ = make_checkpoint()
    return folder


def journal(output: Path) -> list[tuple[int, str, float]]:
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["kind"], line["loss"]) for line in lines]


def test_what_the_unet_sees(small: Path, table: Path, tmp_path: Path) -> None:
    pipe: Any = load(small, device="cpu")
    loop = Loop(FEW, tmp_path / "out", 3)
    examples = open_examples(table)
    source = NoisyLatents(pipe, loop)
    turns = [f"{turn}" for turn in range(3)]
    batch, noise = source.batch(examples, range(3), turns)
    # q(x_t | x_0) from the definition: linspace of the roots, squared
    kept = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[batch["timestep"]]
    kept = kept[:, None, None, None]
    latents = (batch["sample"] - (1 - kept).sqrt() * noise) / kept.sqrt()
    with torch.no_grad():
        moments = pipe.vae.encode(source._pixels(examples, range(3), turns)).latent_dist
    deviation = (latents / 0.18215 - moments.mean) / moments.std
    clear = kept[:, 0, 0, 0] > 0.05     # where so much noise lies over it, the rounding of a float would be seen
    assert clear.any() and abs(float(deviation[clear].mean())) < 0.3 and 0.7 < float(deviation[clear].std()) < 1.3
    assert batch["encoder_hidden_states"].shape == (3, 1, 16)
    again, _ = source.batch(examples, [2, 0], ["2", "0"])
    assert torch.equal(again["sample"], batch["sample"][[2, 0]])
    other, _ = source.batch(examples, [0], ["elsewhere"])
    assert not torch.equal(other["sample"], batch["sample"][:1])


def test_resuming_gives_the_losses_of_an_uninterrupted_run(
        small: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LatentOptions(data=str(table), validation=str(table), model=str(small), output=str(tmp_path / "whole"),
                          gradient_checkpointing=True, loop=FEW)
    train_latent(whole)
    broken = replace(whole, output=str(tmp_path / "broken"))
    step = Loop.step

    def stops(self: Any, model: Any, optimizer: Any, losses: Any, number: int) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, model, optimizer, losses, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "step", stops)
        train_latent(broken)
    train_latent(replace(broken, loop=replace(FEW, resume=True)))
    assert journal(tmp_path / "broken") == journal(tmp_path / "whole")
    one, two = (load(tmp_path / name / "model", device="cpu").unet.state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    before: Any = load(small, device="cpu")
    assert not torch.equal(before.unet.conv_in.weight, one["conv_in.weight"])


def test_it_learns(small: Path, table: Path, tmp_path: Path) -> None:
    train_latent(LatentOptions(data=str(table), validation=str(table), model=str(small), output=str(tmp_path / "out"),
                               loop=replace(FEW, steps=40, save_every=40, validate_every=20)))
    first, second = (loss for _, kind, loss in journal(tmp_path / "out") if kind == "validation")
    assert second < first < journal(tmp_path / "out")[0][2]


@pytest.mark.parametrize("layout", ["easynlp", "diffusers"])
def test_no_stale_copy_of_the_weights_is_left(
        layout: str, make_checkpoint: Callable[..., tuple[Path, State]], table: Path, tmp_path: Path) -> None:
    def averaged(state: State) -> State:
        copies = {"model_ema." + key.removeprefix("model.").replace(".", ""): value * 0.5
                  for key, value in state.items() if key.startswith("model.diffusion_model.")}
        return {**state, **copies, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}

    base, state = make_checkpoint(change=averaged, params={"use_ema": True})
    train_latent(LatentOptions(data=str(table), model=str(base), output=str(tmp_path / "out"), output_layout=layout,
                               loop=replace(FEW, steps=1, learning_rate=1e-6)))
    model = tmp_path / "out/model"
    assert detect(model).family == "chinese-ldm" and not check(model)
    tuned: Any = load(model, device="cpu")
    # trained from the copy that the checkpoint samples with
    torch.testing.assert_close(tuned.unet.conv_in.weight, 0.5 * state["model.diffusion_model.input_blocks.0.0.weight"],
                               atol=1e-4, rtol=0)
    if layout == "easynlp":
        written = torch.load(model / "pytorch_model.bin")
        assert not any(name.startswith("model_ema.") for name in written)
        assert torch.equal(written["model.diffusion_model.input_blocks.0.0.weight"], tuned.unet.conv_in.weight)
        assert json.loads((model / "config.json").read_text())["model"]["params"]["use_ema"] is False
        assert (model / "RRDB_ESRGAN_x4.pth").is_file() and (model / "vocab.txt").is_file()


def test_other_models(painter_checkpoint: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no latent diffusion of EasyNLP"):
        train_latent(LatentOptions(data=str(table), model=str(painter_checkpoint), output=str(tmp_path / "out"), loop=FEW))


# ---- the command line

def words(table: Path, target: Path, parameters: str, *more: str) -> list[str]:
    """The training command of the article, but for the paths and one step of a smaller batch."""
    return ["easynlp", "--mode=train", "--worker_gpu=0", f"--tables={table},{table}",
            "--input_schema=idx:str:1,text:str:1,imgbase64:str:1", "--first_sequence=text", "--second_sequence=imgbase64",
            f"--checkpoint_dir={target}", "--learning_rate=4e-5", "--epoch_num=1", "--random_seed=42", "--logging_steps=100",
            "--save_checkpoint_steps=1000", "--sequence_length=288", "--micro_batch_size=2",
            "--app_name=latent_diffusion", f"--user_defined_parameters={parameters}", *more]


def test_the_article_s_command(small: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = (f"\n pretrain_model_name_or_path={small}\n size=256\n text_len=32\n img_len=256\n"
                  " reset_model_state_flag=True\n")
    assert cli.main(words(table, tmp_path / "tuned", parameters)) == 0
    printed = capsys.readouterr()
    assert f"Wrote {tmp_path}/tuned" in printed.out and "size is 64 in this checkpoint; 256 is not followed" in printed.err
    kept = journal(tmp_path / "tuned.training")
    assert [kind for _, kind, _ in kept] == ["train", "validation"]
    line = ["easynlp", "--mode=evaluate", "--worker_gpu=0", "--app_name=latent_diffusion", f"--tables={table}",
            "--micro_batch_size=2", f"--checkpoint_dir={tmp_path}/tuned"]
    assert cli.main(line) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"loss": pytest.approx(kept[-1][2], rel=1e-5), "rows": 3}


def test_danqing_train_latent(small: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "latent", f"--data={table}", f"--model={small}", f"--output={tmp_path}/out", "--steps=1",
            "--batch-size=1", "--random-crop", "--output-dtype=fp16"]
    assert cli.main([*line, "--sample-every=1"]) == 1
    assert "danqing train latent draws no samples" in capsys.readouterr().err
    assert cli.main(line) in (0, None)
    assert "Wrote" in capsys.readouterr().out
    assert load(tmp_path / "out/model", device="cpu", dtype="fp16").unet.dtype == torch.float16
    assert not check(tmp_path / "out/model")


@pytest.mark.parametrize("parameters, sentence", [
    ("size=256", "names no pretrain_model_name_or_path; a latent diffusion is fine-tuned"),
    ("pretrain_model_name_or_path={painter}", "is no latent diffusion of EasyNLP"),
    ("n_layer=2", "'n_layer' belongs to --app_name=text2image_generation"),
    ("colour=2", "there is no 'colour'"),
])
def test_training_that_cannot_be(parameters: str, sentence: str, painter_checkpoint: Path, table: Path, tmp_path: Path,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(table, tmp_path / "tuned", parameters.format(painter=painter_checkpoint))) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
