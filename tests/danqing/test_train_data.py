"""Pictures and texts as training prepares them, against EasyNLP's own, and the cache of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from danqing.train.data import Pictures, as_input, cached_codes, encode, picture_of, prepare, token_ids
from danqing_pack.errors import FormatError, RequestError
from danqing_pack.examples import open_examples
from diffusers import VQModel
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def vqvae() -> VQModel:
    torch.manual_seed(0)
    return VQModel(block_out_channels=(32, 32), layers_per_block=1, latent_channels=8, num_vq_embeddings=16, vq_embed_dim=4,
                   down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16)


@pytest.mark.parametrize("table", ["train.tsv", "train_two_columns.tsv"])
def test_pictures_are_prepared_as_the_original_did(golden: Path, table: str) -> None:
    expected = load_file(golden / "easynlp" / "tsv" / "expected" / "train_examples.safetensors")
    pictures = Pictures(open_examples(golden / "easynlp" / "tsv" / table), 32)
    for index in range(len(pictures)):
        ours = as_input(pictures.batch([index]))[0].permute(1, 2, 0)
        assert torch.allclose(ours, expected[f"image_{index}"], atol=1 / 127.5 + 1e-6)


def test_texts_become_the_original_ids(golden: Path) -> None:
    from danqing import load

    pipe = load(golden / "easynlp" / "painter_tiny" / "checkpoint", device="cpu")
    expected = load_file(golden / "easynlp" / "tsv" / "expected" / "train_examples.safetensors")
    examples = open_examples(golden / "easynlp" / "tsv" / "train.tsv")
    ids = token_ids(pipe.tokenizer, [example.text for example in examples], 32, 128)
    for index, row in enumerate(ids):
        assert row.tolist() == expected[f"text_{index}"].tolist()


def test_a_random_crop_moves_along_the_longer_side() -> None:
    import random

    picture = Image.fromarray(np.arange(8 * 64, dtype=np.uint8).reshape(8, 64)).convert("RGB")
    cuts = {tuple(prepare(picture, 8, random.Random(turn))[0, 0].tolist()) for turn in range(20)}
    assert len(cuts) > 5
    assert torch.equal(prepare(picture, 8), prepare(picture, 8))


def test_a_damaged_image_names_its_row() -> None:
    with pytest.raises(FormatError, match="line 7"):
        picture_of(b"no image", 8, "line 7 of t.tsv")


def test_codes_are_computed_once(golden: Path, tmp_path: Path, vqvae: VQModel, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = open_examples(golden / "easynlp" / "tsv" / "train.tsv")
    first = cached_codes(examples, vqvae, 16, tmp_path)
    direct = encode(vqvae, as_input(Pictures(examples, 16).batch(range(len(examples)))))
    assert np.array_equal(first, direct.numpy()) and first.shape == (len(examples), 64)
    monkeypatch.setattr("danqing.train.data.encode", None)
    assert np.array_equal(cached_codes(examples, vqvae, 16, tmp_path), first)
    with pytest.raises(TypeError):
        cached_codes(examples, vqvae, 32, tmp_path)  # another size is another cache


def test_codes_are_those_of_diffusers(vqvae: VQModel) -> None:
    torch.manual_seed(1)
    pixels = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        _, _, (_, _, ids) = vqvae.quantize(vqvae.encode(pixels).latents)
    assert torch.equal(encode(vqvae, pixels).reshape(-1), ids.reshape(-1))


def test_a_damaged_cache_says_so(golden: Path, tmp_path: Path, vqvae: VQModel) -> None:
    examples = open_examples(golden / "easynlp" / "tsv" / "train.tsv")
    cached_codes(examples, vqvae, 16, tmp_path)
    (cache,) = tmp_path.glob("codes-*.npz")
    cache.write_bytes(b"broken")
    with pytest.raises(RequestError, match="damaged"):
        cached_codes(examples, vqvae, 16, tmp_path)
