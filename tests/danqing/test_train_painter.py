"""The painter's recipe: the original's loss, exact resume, fine-tuning and training from scratch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing import load
from danqing.mini.making import write_tables
from danqing.train.loop import LoopOptions, Order, parameter_groups, rate
from danqing.train.painter import PainterOptions, train_painter
from danqing_pack import check, detect
from danqing_pack.errors import FormatError, RequestError
from diffusers import VQModel
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, vocabulary, a random first stage and the sizes of a tiny painter."""
    folder = tmp_path_factory.mktemp("work")
    write_tables(folder, rows=24, seed=1, validation_rows=6)
    torch.manual_seed(0)
    VQModel(block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=8, num_vq_embeddings=16, vq_embed_dim=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            sample_size=64).save_pretrained(folder / "stage")
    (folder / "sizes.json").write_text(json.dumps({"n_layer": 2, "n_head": 2, "n_embd": 16, "resid_pdrop": 0.1}))
    return folder


def options(work: Path, output: Path, loop: LoopOptions, **more: Any) -> PainterOptions:
    return PainterOptions(data=str(work / "train.tsv"), model=str(work / "sizes.json"), output=str(output),
                          first_stage=str(work / "stage"), vocab=str(work / "vocab.txt"), loop=loop, **more)


def losses(output: Path) -> list[tuple[int, str, float]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["kind"], line["loss"]) for line in lines]


FEW = LoopOptions(steps=8, batch_size=4, learning_rate=1e-2, log_every=1, save_every=4, validate_every=4, warmup=2,
                  schedule="cosine")


def test_the_loss_of_the_golden_batch_is_the_original_s(golden: Path) -> None:
    data = load_file(golden / "easynlp" / "painter_tiny" / "expected" / "transformer.safetensors")
    ids = data["teacher_forced_input_ids"]
    pipe = load(golden / "easynlp" / "painter_tiny" / "checkpoint", device="cpu")
    codes = torch.cat([ids[:, 32:], torch.tensor([[5], [9]])], dim=1)
    wanted = F.cross_entropy(data["logits"][:, 31:].reshape(-1, 128), codes.reshape(-1))
    with torch.no_grad():
        found = pipe.transformer(input_ids=ids, labels=codes).loss
    assert float(found) == pytest.approx(float(wanted), abs=1e-5)


def test_resuming_gives_the_losses_of_an_uninterrupted_run(work: Path, tmp_path: Path) -> None:
    whole = options(work, tmp_path / "whole", FEW, validation=str(work / "validation.tsv"))
    train_painter(whole)
    broken = replace(whole, output=str(tmp_path / "broken"))

    class Stopped(Exception):
        pass

    import danqing.train.loop as module

    original = module.Loop.step

    def step(self: Any, model: Any, optimizer: Any, found: Any, number: int) -> float:
        if number == 6:
            raise Stopped
        return original(self, model, optimizer, found, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(module.Loop, "step", step)
        train_painter(broken)
    assert not (tmp_path / "broken" / "model").exists()
    train_painter(replace(broken, loop=replace(FEW, resume=True)))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    one, two = (load_file(tmp_path / name / "model" / "transformer" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_from_scratch_learns_and_writes_easynlp(work: Path, tmp_path: Path) -> None:
    loop = replace(FEW, steps=30, batch_size=8, save_every=30)
    train_painter(options(work, tmp_path / "out", loop, output_layout="easynlp", output_dtype="fp16",
                          prompts=("红色圆形", "左边红色方块，右边绿色圆圈")))
    found = losses(tmp_path / "out")
    assert found[-1][2] < found[0][2] - 0.3
    model = tmp_path / "out" / "model"
    assert {"config.json", "pytorch_model.bin", "vocab.txt"} <= {path.name for path in model.iterdir()}
    config = json.loads((model / "config.json").read_text())
    assert config["model_type"] == "artist" and config["block_size"] == 96 and config["img_vocab_size"] == 16
    state = torch.load(model / "pytorch_model.bin", weights_only=True)
    assert state["transformer.tok_emb.weight"].dtype == torch.float16
    assert state["transformer.blocks.0.attn.mask"].shape == (1, 1, 96, 96)
    assert detect(model).family == "painter" and not check(model)
    (picture,) = load(model, device="cpu")("红色圆形", generator=torch.Generator().manual_seed(0), top_k=10).images
    assert picture.size == (64, 64)


@pytest.mark.parametrize("layout", ["diffusers", "easynlp"])
def test_fine_tuning_a_checkpoint(painter_checkpoint: Path, golden: Path, tmp_path: Path, layout: str) -> None:
    loop = LoopOptions(steps=1, batch_size=1, accumulation=2, learning_rate=1e-3, log_every=1, sample_every=0)
    train_painter(PainterOptions(data=str(golden / "easynlp" / "tsv" / "train.tsv"), model=str(painter_checkpoint),
                                 output=str(tmp_path / "out"), output_layout=layout, gradient_checkpointing=True, loop=loop))
    before, after = load(painter_checkpoint, device="cpu"), load(tmp_path / "out" / "model", device="cpu")
    assert not torch.equal(before.transformer.head.weight, after.transformer.head.weight)
    kept = zip(before.vqvae.state_dict().values(), after.vqvae.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in kept)
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    assert not check(tmp_path / "out" / "model")


def test_accumulation_and_large_batches_agree(work: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps({"n_layer": 2, "n_head": 2, "n_embd": 16}))
    for name, size, turns in (("one", 4, 1), ("two", 2, 2)):
        loop = replace(FEW, steps=3, batch_size=size, accumulation=turns)
        train_painter(replace(options(work, tmp_path / name, loop), model=str(tmp_path / "plain.json")))
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert one[2] == pytest.approx(two[2], abs=1e-5)


def test_samples_and_random_crops(work: Path, tmp_path: Path) -> None:
    loop = replace(FEW, steps=2, sample_every=1)
    train_painter(options(work, tmp_path / "out", loop, random_crop=True, prompts=("蓝色背景", "红圆")))
    assert len(list((tmp_path / "out" / "samples").glob("samples-*.png"))) == 2
    assert not list((tmp_path / "out").glob("codes-*"))


def test_bf16(work: Path, tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    train_painter(options(work, tmp_path / "out", replace(FEW, steps=2, precision="bf16")))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert len(losses(tmp_path / "out")) == 2


def test_an_old_run_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    chosen = options(work, tmp_path / "out", replace(FEW, steps=1))
    train_painter(chosen)
    with pytest.raises(RequestError, match="--resume"):
        train_painter(chosen)


def test_bad_input_gets_a_sentence(work: Path, tmp_path: Path) -> None:
    chosen = options(work, tmp_path / "out", FEW)
    with pytest.raises(RequestError, match="--first-stage"):
        train_painter(replace(chosen, first_stage=None))
    with pytest.raises(RequestError, match="layouts"):
        train_painter(replace(chosen, output_layout="eas"))
    (tmp_path / "odd.json").write_text('{"n_layer": 1, "n_heads": 2}')
    with pytest.raises(FormatError, match="n_heads"):
        train_painter(replace(chosen, model=str(tmp_path / "odd.json"), output=str(tmp_path / "other")))
    with pytest.raises(RequestError, match="schedule"):
        LoopOptions(schedule="sine")


def test_the_learning_rate_rises_and_falls() -> None:
    loop = LoopOptions(steps=110, warmup=10, schedule="cosine", final_rate=0.1)
    found = [rate(loop, step, 110) for step in range(110)]
    assert found[0] == 0.1 and found[9] == found[10] == 1.0
    assert found[60] == pytest.approx(0.55) and 0.1 < found[-1] < 0.101
    assert rate(LoopOptions(schedule="constant"), 10**6, 10) == 1.0


def test_only_linear_weights_decay() -> None:
    network = nn.ModuleDict({"table": nn.Embedding(3, 4), "linear": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    decayed, rest = parameter_groups(network, 0.01)
    assert [value.shape for value in decayed["params"]] == [(4, 4)] and decayed["weight_decay"] == 0.01
    assert len(rest["params"]) == 4 and rest["weight_decay"] == 0.0


def test_every_epoch_takes_every_row_once() -> None:
    order = Order(7, seed=3)
    rows = order.rows_at(0, 21)
    assert sorted(rows[:7]) == sorted(rows[7:14]) == list(range(7)) and rows[:7] != rows[7:14]
    assert Order(7, seed=3).rows_at(5, 9) == rows[5:14]
