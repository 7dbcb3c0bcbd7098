"""The first stage's recipe: it learns, revives dead codes, resumes exactly and writes both layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing.mini.making import write_tables
from danqing.train.loop import Loop, LoopOptions
from danqing.train.patches import k_means, load_patch_codes, make_patch_codes, nearest, patches_of
from danqing.train.vqgan import FirstStage, VqganOptions, open_vqgan, quiet_start, train_vqgan
from danqing_pack.errors import RequestError
from diffusers import VQModel

CONFIG = {
    "_class_name": "VQModel", "block_out_channels": [32, 32], "layers_per_block": 1, "latent_channels": 8,
    "num_vq_embeddings": 16, "vq_embed_dim": 4, "norm_num_groups": 32, "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}
FEW = LoopOptions(steps=8, batch_size=4, learning_rate=2e-3, log_every=1, save_every=4, validate_every=4)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_tables(folder, rows=16, seed=1, validation_rows=4)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def options(work: Path, output: Path, loop: LoopOptions, **more: Any) -> VqganOptions:
    return VqganOptions(data=str(work / "train.tsv"), model=str(work / "config.json"), output=str(output), loop=loop, **more)


def journal(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_it_learns_and_the_codebook_comes_from_k_means(work: Path, tmp_path: Path) -> None:
    loop = replace(FEW, steps=60, save_every=60, validate_every=20, sample_every=60)
    train_vqgan(options(work, tmp_path / "out", loop, continuous_steps=30, validation=str(work / "validation.tsv")))
    found = journal(tmp_path / "out")
    errors = [line["rms"] for line in found if line["kind"] == "validation"]
    assert errors[-1] < 0.95 * errors[0]
    used = [line["codes"] for line in found if line["kind"] == "validation"]
    assert used[0] == 1 and used[-1] >= 8
    assert VQModel.from_pretrained(tmp_path / "out" / "model").config["sample_size"] == 16
    assert list((tmp_path / "out" / "samples").iterdir())


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_resuming_gives_the_losses_of_an_uninterrupted_run(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float,
) -> None:
    whole = options(work, tmp_path / "whole", FEW, continuous_steps=2, revive_every=3, adversarial_weight=weight,
                    adversarial_start=3)
    train_vqgan(whole)
    original = Loop.step

    class Stopped(Exception):
        pass

    def step(self: Loop, *given: Any) -> float:
        if given[-1] == 6:
            raise Stopped
        return original(self, *given)

    broken = replace(whole, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "step", step)
        train_vqgan(broken)
    train_vqgan(replace(broken, loop=replace(FEW, resume=True)))
    assert journal(tmp_path / "broken") == journal(tmp_path / "whole")
    one, two = (open_vqgan(str(tmp_path / name / "model"))[0].state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_dead_codes_come_back_where_the_error_is(work: Path, tmp_path: Path) -> None:
    from danqing.train import vqgan as module

    loop = Loop(replace(FEW, steps=1000), tmp_path / "out", 16)
    vqvae = VQModel.from_config(CONFIG)
    vqvae.quantize.embedding.weight.data[:] = 0.0
    stage = FirstStage(vqvae, ready=True)
    optimizer = module._optimizer(stage, options(work, tmp_path, FEW))
    flat = torch.zeros(64, 4)
    flat[:8] = 5.0
    seen = [(flat, torch.zeros(64, dtype=torch.int64))]
    module._mind_codes(stage, optimizer, seen, loop, options(work, tmp_path, FEW), step=199)
    book = stage.vqvae.quantize.embedding.weight
    moved = (book == 5.0).all(dim=1)
    assert int(moved.sum()) == 8 and not moved[0]
    assert (stage.last_used[moved] == 200).all()


def test_k_means_finds_rare_points() -> None:
    points = torch.cat([torch.zeros(500, 2), torch.full((3, 2), 9.0), torch.tensor([[0.0, 9.0]])])
    book = k_means(points, 3, torch.Generator().manual_seed(0), rounds=5)
    assert sorted(book.round().tolist()) == [[0.0, 0.0], [0.0, 9.0], [9.0, 9.0]]
    assert nearest(torch.tensor([[8.0, 8.0]]), book).item() == nearest(torch.tensor([[9.0, 9.0]]), book).item()


def test_a_quiet_start_silences_the_branches() -> None:
    vqvae = VQModel.from_config(CONFIG)
    quiet_start(vqvae)
    block = vqvae.encoder.down_blocks[0].resnets[0]
    x = torch.randn(1, 32, 4, 4)
    assert torch.equal(block(x, None), x)


def test_patch_codes_are_fixed_and_the_decoder_learns_from_them(work: Path, tmp_path: Path) -> None:
    chosen = options(work, tmp_path / "out", replace(FEW, steps=40, save_every=40, validate_every=20), codes="patches",
                     encoder_every=2, validation=str(work / "validation.tsv"))
    train_vqgan(chosen)
    first, last = [line for line in journal(tmp_path / "out") if line["kind"] == "validation"]
    assert last["rms"] < 0.95 * first["rms"] and last["named"] > 0.02
    patches = load_patch_codes(tmp_path / "out" / "model")
    vqvae, _ = open_vqgan(str(tmp_path / "out" / "model"))
    assert patches is not None and torch.equal(patches.book, vqvae.quantize.embedding.weight)


def test_a_patch_has_the_same_code_wherever_it_stands() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    codes = make_patch_codes(pixels, side=4, count=128, width=48, seed=0)
    ids = codes.ids(pixels.float() / 127.5 - 1).view(8, 4, 4)
    assert len(ids.unique()) == 128  # as many distinct patches as codes: none is shared
    turned = torch.roll(pixels, (4, 8), dims=(2, 3))
    assert torch.equal(codes.ids(turned.float() / 127.5 - 1).view(8, 4, 4), torch.roll(ids, (1, 2), dims=(1, 2)))
    back = patches_of(pixels, 4).view(8, 4, 4, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(pixels.shape)
    assert torch.equal(back, pixels)


def test_it_goes_on_from_a_painter_and_writes_easynlp_s_file(
    painter_checkpoint: Path, golden: Path, tmp_path: Path,
) -> None:
    chosen = VqganOptions(data=str(golden / "easynlp" / "tsv" / "train.tsv"), model=str(painter_checkpoint),
                          output=str(tmp_path / "out"), output_layout="easynlp", loop=replace(FEW, steps=1, batch_size=1))
    train_vqgan(chosen)
    written = torch.load(tmp_path / "out" / "model" / "vqgan.bin", weights_only=True)
    original = torch.load(painter_checkpoint / "pytorch_model.bin", weights_only=True)
    names = {name.removeprefix("first_stage_model.") for name in original if name.startswith("first_stage_model.")}
    assert written.keys() == names
    assert all(written[name].shape == original[f"first_stage_model.{name}"].shape for name in names)
    assert not torch.equal(written["decoder.conv_out.weight"], original["first_stage_model.decoder.conv_out.weight"])


def test_what_is_no_vqgan_gets_a_sentence(work: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="layouts"):
        train_vqgan(options(work, tmp_path / "out", FEW, output_layout="eas"))
