"""The painter's two sides: dimensions from shapes, masks remade, every size there and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing_pack import check, convert, detect, pickles
from danqing_pack.errors import ConversionError, FormatError, RequestError
from danqing_pack.tensors import open_safetensors

MakePainter = Callable[..., Any]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.array() for name, tensor in pickles.load(folder / "pytorch_model.bin").items()}


def assert_same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = other[name]
        assert (value.dtype, value.shape, value.tobytes()) == (same.dtype, same.shape, same.tobytes()), name


def there_and_back(folder: Path, tmp_path: Path, **options: Any) -> Path:
    convert(folder, tmp_path / "modern", to="diffusers", **options)
    convert(tmp_path / "modern", tmp_path / "back", to="easynlp")
    return tmp_path / "back"


# ---------------------------------------------------------------- against the golden data

def test_the_names_and_shapes_are_those_that_the_original_wrote(painter_checkpoint: Path, tmp_path: Path) -> None:
    back = there_and_back(painter_checkpoint, tmp_path)
    lines = (painter_checkpoint.parent / "state_dict_keys.txt").read_text().splitlines()
    expected = {name: (shape, dtype) for name, shape, dtype in (line.split("\t") for line in lines)}
    assert {name: (str(list(value.shape)), value.dtype.name) for name, value in arrays(back).items()} == expected


# ---------------------------------------------------------------- any size

@pytest.mark.parametrize(
    "made",
    [
        {"vqgan": {"channels": (32,), "attention": (True,)}, "block_size": 32 + 16},
        {"vqgan": {"channels": (32, 32, 64, 96), "attention": (True, False, True, False), "layers_per_block": 2}},
        {"dtype": np.float16},
        {"n_unmasked": 32},
        {"n_unmasked": 40},
        {"entity_dim": 100},
        {"layers": 11, "heads": 4},
        {"drop": ("transformer.blocks.0.attn.mask", "transformer.blocks.1.attn.mask")},
        {"extra": {"first_stage_model.loss.logvar": np.zeros(3, np.float32),
                   "first_stage_model.colorize": np.ones((3, 2, 1, 1), np.float32)}},
        {"image_vocab_size": 9, "vocab_size": 9 + 24},
    ],
    ids=["one level", "four levels, attention here and there", "half", "prefix mask", "prefix mask beyond the text",
         "knowledge", "eleven layers", "without masks", "training leftovers", "fewer codes than the codebook"],
)
def test_any_painter_comes_back_bit_for_bit(made: dict[str, Any], make_painter: MakePainter, tmp_path: Path) -> None:
    folder, size, state = make_painter(**made)
    assert detect(folder).dimensions == size
    back = there_and_back(folder, tmp_path)
    assert_same_arrays(state, arrays(back))
    assert detect(tmp_path / "modern").dimensions == size


def test_a_mask_of_other_numbers_with_the_same_effect_is_kept(make_painter: MakePainter, tmp_path: Path) -> None:
    name = "transformer.blocks.0.attn.mask"
    folder, _, state = make_painter()
    folder2, _, state = make_painter("other", extra={name: state[name] * 2})
    back = there_and_back(folder2, tmp_path)
    assert open_safetensors(tmp_path / "modern" / "legacy" / "unused.safetensors").keys() == {name}
    assert_same_arrays(state, arrays(back))


def test_a_mask_that_no_prefix_makes_is_refused_by_name(make_painter: MakePainter, tmp_path: Path) -> None:
    name = "transformer.blocks.1.attn.mask"
    _, _, state = make_painter()
    folder, _, _ = make_painter("odd", extra={name: np.ones_like(state[name])})
    with pytest.raises(ConversionError, match=r"transformer\.blocks\.1\.attn\.mask"):
        convert(folder, tmp_path / "out", to="diffusers")


def test_the_stored_mask_wins_over_the_config(make_painter: MakePainter) -> None:
    folder, _, _ = make_painter(n_unmasked=32, config={"n_unmasked": 0})
    assert detect(folder).dimensions.n_unmasked == 32


def test_shapes_win_over_the_config(make_painter: MakePainter) -> None:
    folder, size, _ = make_painter(config={"img_vocab_size": 16384, "n_layer": 99, "n_embd": 5, "vocab_size": 1})
    assert detect(folder).dimensions == size


def test_a_first_level_that_widens_is_refused_because_diffusers_has_none(make_painter: MakePainter, tmp_path: Path) -> None:
    folder, _, _ = make_painter(extra={
        "first_stage_model.encoder.conv_in.weight": np.zeros((64, 3, 3, 3), np.float32)})
    with pytest.raises(FormatError, match="ch_mult"):
        convert(folder, tmp_path / "out", to="diffusers")


# ---------------------------------------------------------------- text length

@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({}, (32, 16)),
        ({"block_size": 20 + 16, "n_unmasked": 20}, (20, 16)),
        ({"block_size": 20 + 16, "train_config": {"user_defined_parameters": "text_len=20 img_len=16 size=64"}}, (20, 16)),
        ({"block_size": 20 + 16, "train_config": {"user_defined_parameters": {"text_len": "20", "img_len": "16"}}}, (20, 16)),
    ],
)
def test_the_first_source_that_speaks_decides_the_text_length(
    made: dict[str, Any], expected: tuple[int, int], make_painter: MakePainter
) -> None:
    found = detect(make_painter(**made)[0]).dimensions
    assert (found.text_length, found.image_length) == expected


def test_an_open_text_length_is_asked_for_and_then_remembered(make_painter: MakePainter, tmp_path: Path) -> None:
    folder, _, _ = make_painter(block_size=21 + 16)
    with pytest.raises(FormatError, match="--text-length"):
        detect(folder)
    with pytest.raises(RequestError, match="no square"):
        detect(folder, text_length=22)
    back = there_and_back(folder, tmp_path, text_length=21)
    assert detect(back).dimensions.text_length == 21


# ---------------------------------------------------------------- parts that do not belong together

@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [(b"[PAD]\na\nb", "no [UNK]"), (b"[PAD]\n[UNK]\n\xff\xfe", "no UTF-8"),
     (b"[PAD]\n[UNK]\n" + b"x\n" * 50, "another checkpoint")],
)
def test_a_damaged_vocabulary_is_refused_and_checked(
    vocabulary: bytes, said: str, make_painter: MakePainter, tmp_path: Path
) -> None:
    folder, _, _ = make_painter()
    convert(folder, tmp_path / "modern", to="diffusers")
    for place in (folder / "vocab.txt", tmp_path / "modern" / "tokenizer" / "vocab.txt"):
        place.write_bytes(vocabulary)
        root = folder if place.parent == folder else tmp_path / "modern"
        assert any(said in problem for problem in check(root))
        with pytest.raises(FormatError) as caught:
            convert(root, tmp_path / "out", to="easynlp")
        assert said in str(caught.value)


def test_a_diffusers_folder_without_a_vocabulary_is_refused(make_painter: MakePainter, tmp_path: Path) -> None:
    """transformers would make up a vocabulary of five words and draw something else without a sound."""
    convert(make_painter()[0], tmp_path / "modern", to="diffusers")
    (tmp_path / "modern" / "tokenizer" / "vocab.txt").unlink()
    with pytest.raises(FormatError, match="vocab.txt"):
        convert(tmp_path / "modern", tmp_path / "out", to="diffusers")
    assert check(tmp_path / "modern")


def test_a_component_without_weights_is_named_by_its_folder(make_painter: MakePainter, tmp_path: Path) -> None:
    convert(make_painter()[0], tmp_path / "modern", to="diffusers")
    (tmp_path / "modern" / "vqvae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FormatError, match="vqvae/ in .* has a configuration and no weights file"):
        detect(tmp_path / "modern")


def test_a_head_that_lost_rows_is_named(make_painter: MakePainter) -> None:
    _, _, state = make_painter()
    folder, _, _ = make_painter("cut", extra={"transformer.head.weight": state["transformer.head.weight"][:-3]})
    with pytest.raises(ConversionError, match=r"transformer\.head\.weight has 13 rows"):
        detect(folder)
