"""pai-diffusion across layouts, held against files and numbers of the libraries of 2023 (tests/golden/diffusers-2023)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing_pack import check, convert, detect, pickles
from danqing_pack.errors import ConversionError, FormatError, UnsafeError
from danqing_pack.tensors import Tensor, open_safetensors

POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.fixture(scope="session")
def reference(golden: Path) -> Path:
    return golden / "diffusers-2023"


@pytest.fixture(scope="session")
def renewed(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pai") / "renewed"
    convert(reference / "pipeline", target, to="diffusers")
    return target


@pytest.fixture(scope="session")
def single(renewed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pai") / "single"
    convert(renewed, target, to="single-file")
    return target


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference / "pipeline", tmp_path / "copy"))


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and np.array_equal(value.array(), other[name].array()) for name, value in one.items())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "danqing.json"}


# ---------------------------------------------------------------- what is it

def test_detect(reference: Path, single: Path) -> None:
    found = detect(reference / "pipeline")
    assert (found.family, found.layout) == ("pai-diffusion", "diffusers")
    assert found.dimensions.text.text_length == 32 and found.dimensions.unet.heads == (8, 8, 8, 8)
    assert "32 text tokens" in found.describe() and "64 x 64 pixels" in found.describe()
    for path in (single, single / "model.ckpt", reference / "single_file" / "model.ckpt"):
        again = detect(path)
        assert (again.family, again.layout) == ("pai-diffusion", "single-file")
        assert again.dimensions.text.text_length == 32


def test_nothing_is_wrong_with_the_folders(reference: Path, renewed: Path, single: Path) -> None:
    for path in (reference / "pipeline", renewed, single):
        assert check(path) == []


# ---------------------------------------------------------------- renewing a folder of 2023

def test_only_names_change(reference: Path, renewed: Path) -> None:
    old, new = reference / "pipeline", renewed
    assert same(pickles.load(old / "unet/diffusion_pytorch_model.bin"),
                open_safetensors(new / "unet/diffusion_pytorch_model.safetensors"))
    text = pickles.load(old / "text_encoder/pytorch_model.bin")
    del text["text_model.embeddings.position_ids"]
    assert same(text, open_safetensors(new / "text_encoder/model.safetensors"))
    vae = pickles.load(old / "vae/diffusion_pytorch_model.bin")
    modern = open_safetensors(new / "vae/diffusion_pytorch_model.safetensors")
    place = "encoder.mid_block.attentions.0"
    for before, after in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        assert np.array_equal(vae[f"{place}.{before}.weight"].array(), modern[f"{place}.{after}.weight"].array())
    assert len(vae) == len(modern)


def test_names_of_today(renewed: Path) -> None:
    index = json.loads((renewed / "model_index.json").read_bytes())
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert index["tokenizer"] == ["transformers", "BertTokenizer"] and "_name_or_path" not in index
    processor = json.loads((renewed / "feature_extractor/preprocessor_config.json").read_bytes())
    assert processor["image_processor_type"] == "CLIPImageProcessor"
    assert not list(renewed.rglob("*.bin"))
    for path in renewed.rglob("config.json"):
        assert not {"_name_or_path", "torch_dtype", "_commit_hash"} & json.loads(path.read_bytes()).keys()
    assert (renewed / "tokenizer/vocab.txt").is_file()


def test_renewing_again_changes_nothing(renewed: Path, tmp_path: Path) -> None:
    convert(renewed, tmp_path / "again", to="diffusers")
    assert tree(tmp_path / "again") == tree(renewed)


def test_what_todays_libraries_save_is_taken(renewed: Path, tmp_path: Path) -> None:
    """transformers 5 saves tokenizer.json without vocab.txt; the vocabulary comes out of it."""
    from transformers import BertTokenizer

    folder = Path(shutil.copytree(renewed, tmp_path / "saved"))
    words = (folder / "tokenizer/vocab.txt").read_text(encoding="utf-8")
    tokenizer = BertTokenizer.from_pretrained(folder / "tokenizer")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "danqing.json").unlink()
    assert not (folder / "tokenizer/vocab.txt").exists()
    convert(folder, tmp_path / "single", to="single-file")
    assert (tmp_path / "single/vocab.txt").read_text(encoding="utf-8") == words


def test_a_solver_of_2023_is_told_where_to_end(copy: Path, tmp_path: Path) -> None:
    (copy / "model_index.json").write_text((copy / "model_index.json").read_text().replace(
        "PNDMScheduler", "DPMSolverMultistepScheduler"))
    convert(copy, tmp_path / "out", to="diffusers")
    assert json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_bytes())["final_sigmas_type"] == "sigma_min"


def test_a_tokenizer_without_limit_takes_the_encoders(copy: Path, tmp_path: Path) -> None:
    path = copy / "tokenizer/tokenizer_config.json"
    config = json.loads(path.read_bytes())
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    convert(copy, tmp_path / "out", to="diffusers")
    assert json.loads((tmp_path / "out/tokenizer/tokenizer_config.json").read_bytes())["model_max_length"] == 32


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_half_precision(reference: Path, tmp_path: Path, dtype: str, name: str) -> None:
    convert(reference / "pipeline", tmp_path / "half", to="diffusers", dtype=dtype)
    assert detect(tmp_path / "half").dtypes.keys() == {name}


# ---------------------------------------------------------------- the single file

def test_the_single_file_is_that_of_2023(reference: Path, single: Path) -> None:
    """Key for key, shape for shape, bit for bit the file that the conversion script of 2023 wrote."""
    old = pickles.load(reference / "single_file/model.ckpt")["state_dict"]
    new = pickles.load(single / "model.ckpt")["state_dict"]
    assert same(dict(sorted(old.items())), dict(sorted(new.items())))


def test_there_and_back(renewed: Path, single: Path, tmp_path: Path) -> None:
    convert(single, tmp_path / "modern", to="diffusers")
    assert tree(tmp_path / "modern") == tree(renewed)
    convert(tmp_path / "modern", tmp_path / "again", to="single-file")
    assert tree(tmp_path / "again") == tree(single)


def test_the_file_alone_takes_its_vocabulary_from_beside_it(reference: Path, renewed: Path, tmp_path: Path) -> None:
    shutil.copy(reference / "single_file/model.ckpt", tmp_path / "general.ckpt")
    with pytest.raises(FormatError, match=r"no vocab\.txt beside the weights"):
        convert(tmp_path / "general.ckpt", tmp_path / "out", to="diffusers")
    shutil.copy(reference / "pipeline/tokenizer/vocab.txt", tmp_path)
    done = convert(tmp_path / "general.ckpt", tmp_path / "out", to="diffusers")
    assert any("says nothing of its configuration" in note for note in done.notes)
    config = json.loads((tmp_path / "out/tokenizer/tokenizer_config.json").read_bytes())
    assert config["model_max_length"] == 32
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        assert same(open_safetensors(tmp_path / f"out/{name}.safetensors"), open_safetensors(renewed / f"{name}.safetensors"))


def test_a_file_in_a_hub_folder_takes_the_rest_from_there(reference: Path, copy: Path, renewed: Path, tmp_path: Path) -> None:
    shutil.copy(reference / "single_file/model.ckpt", copy)
    convert(copy / "model.ckpt", tmp_path / "out", to="diffusers")
    assert tree(tmp_path / "out") == tree(renewed)


@pytest.mark.parametrize("case", ["half", "absent", "other"])
def test_the_position_buffer_comes_back_as_it_was(reference: Path, tmp_path: Path, case: str) -> None:
    state = dict(pickles.load(reference / "single_file/model.ckpt")["state_dict"])
    if case == "absent":
        del state[POSITIONS]
    elif case == "half":
        state[POSITIONS] = Tensor.of(state[POSITIONS].array().astype(np.float16))
    else:
        state[POSITIONS] = Tensor.of(np.zeros((1, 32), np.int64))
    state["model_ema.decay"] = Tensor.of(np.array(0.5, np.float32))
    pickles.dump(tmp_path / "model.ckpt", {"state_dict": state})
    shutil.copy(reference / "pipeline/tokenizer/vocab.txt", tmp_path)
    convert(tmp_path / "model.ckpt", tmp_path / "modern", to="diffusers")
    convert(tmp_path / "modern", tmp_path / "back", to="single-file")
    back = pickles.load(tmp_path / "back/model.ckpt")["state_dict"]
    assert same(dict(sorted(state.items())), dict(sorted(back.items())))


def test_easynlps_app_stable_diffusion(reference: Path, renewed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stable-diffusion-general"
    (folder / "clip-vit-large-patch14").mkdir(parents=True)
    state = pickles.load(reference / "single_file/model.ckpt")["state_dict"]
    pickles.dump(folder / "pytorch_model.bin", {"state_dict": dict(state)})
    params = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, "scale_factor": 0.18215,
              "unet_config": {"params": {"num_heads": 8, "image_size": 8}}}
    (folder / "config.json").write_text(json.dumps({"model": {"params": params}}))
    shutil.copy(reference / "pipeline/text_encoder/config.json", folder / "clip-vit-large-patch14")
    shutil.copy(reference / "pipeline/tokenizer/vocab.txt", folder / "clip-vit-large-patch14")
    assert detect(folder).layout == "easynlp"
    convert(folder, tmp_path / "out", to="diffusers")
    assert same(open_safetensors(tmp_path / "out/unet/diffusion_pytorch_model.safetensors"),
                open_safetensors(renewed / "unet/diffusion_pytorch_model.safetensors"))
    scheduler = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_bytes())
    assert (scheduler["_class_name"], scheduler["beta_schedule"]) == ("PNDMScheduler", "scaled_linear")
    assert json.loads((tmp_path / "out/text_encoder/config.json").read_bytes())["num_attention_heads"] == 4


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "tokenizer/vocab.txt").unlink(), "neither tokenizer/vocab.txt nor tokenizer/tokenizer.json"),
    (lambda folder: shutil.rmtree(folder / "vae"), "there is no such folder"),
    (lambda folder: _edit(folder / "model_index.json", scheduler=None), "names no scheduler"),
    (lambda folder: _edit(folder / "tokenizer/tokenizer_config.json", model_max_length=77),
     "up to 77 tokens and the text encoder has 32 positions"),
    (lambda folder: _edit(folder / "unet/config.json", act_fn="gelu"), "the original code has no network"),
    (lambda folder: _edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline"), "belongs to pai-diffusion"),
])
def test_a_damaged_folder(copy: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(FormatError, match=message):
        convert(copy, tmp_path / "out", to="diffusers")
    assert not (tmp_path / "out").exists()
    assert check(copy)


def test_every_key_is_accounted_for(copy: Path, tmp_path: Path) -> None:
    path = copy / "unet/diffusion_pytorch_model.bin"
    state = dict(pickles.load(path))
    state["stray.weight"] = state.pop("conv_out.bias")
    path.unlink()
    pickles.dump(path, state)
    with pytest.raises(ConversionError) as error:
        convert(copy, tmp_path / "out", to="diffusers")
    assert "stray.weight has no place" in str(error.value) and "conv_out.bias is missing" in str(error.value)


def test_a_refused_global_is_named(copy: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.nn.Linear(1, 1)}, copy / "vae/diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeError, match="torch.nn.modules.linear.Linear"):
        convert(copy, tmp_path / "out", to="diffusers")


def _edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_bytes())
    for name, change in changes.items():
        value.pop(name) if change is None else value.update({name: change})
    path.write_text(json.dumps(value))
