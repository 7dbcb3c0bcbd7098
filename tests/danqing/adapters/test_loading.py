"""``danqing.load`` on folders of 2023, their renewed copies and single files: the numbers of 2023, and silence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import danqing
import numpy as np
import pytest
import torch
from danqing.adapters.lora import adapter_tensors
from danqing_pack import convert, pickles
from danqing_pack.errors import ConversionError, FormatError, RequestError
from danqing_pack.tensors import Tensor
from diffusers import StableDiffusionPipeline


@pytest.fixture(scope="session")
def places(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same checkpoint as it was published, renewed, and as a single file."""
    folder = tmp_path_factory.mktemp("places")
    convert(reference / "pipeline", folder / "renewed", to="diffusers")
    convert(reference / "pipeline", folder / "single", to="single-file")
    return {"2023": reference / "pipeline", "renewed": folder / "renewed", "single": folder / "single",
            "file": folder / "single" / "model.ckpt"}


@pytest.fixture
def load(places: dict[str, Path]) -> Callable[..., Any]:
    def run(place: str = "2023", **options: Any) -> Any:
        pipe: Any = danqing.load(places[place], device="cpu", **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe
    return run


ALL = pytest.mark.parametrize("place", ["2023", "renewed", "single", "file"])


@ALL
def test_the_image_of_2023(load: Callable[..., Any], equals_run: Callable[..., None], place: str) -> None:
    pipe = load(place)
    assert type(pipe).__name__ == "StableDiffusionPipeline" and pipe.danqing_family == "pai-diffusion"
    equals_run(pipe, "pndm_negative")


def test_other_prompts(load: Callable[..., Any], expected: Callable[[str], Any], equals_run: Callable[..., None]) -> None:
    """Without a negative prompt, cut at the end of the text encoder, without guidance."""
    pipe, texts = load(), expected("text.json")["texts"]
    equals_run(pipe, "pndm", negative_prompt=None)
    equals_run(pipe, "pndm_long_prompt", prompt=texts[4], negative_prompt=None)
    equals_run(pipe, "pndm_no_guidance", guidance_scale=1.0, negative_prompt=None)


@ALL
def test_networks_tokens_and_safety(
    load: Callable[..., Any], inputs: dict[str, torch.Tensor], expected: Callable[[str], Any], text_context: torch.Tensor,
    place: str,
) -> None:
    pipe, text, models = load(place), expected("text.json"), expected("models.safetensors")
    encoded = pipe.tokenizer(text["texts"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert encoded.tolist() == text["input_ids"]
    with torch.no_grad():
        embedded = pipe.text_encoder(encoded)[0]
        eps = torch.stack([pipe.unet(inputs["unet_sample"], t, text_context).sample for t in inputs["unet_timesteps"]])
        posterior = pipe.vae.encode(inputs["image"] * 2 - 1).latent_dist
        decoded = pipe.vae.decode(inputs["vae_latents"]).sample
    assert (embedded - expected("text.safetensors")["embeddings"]).abs().max() < 1e-5
    assert (eps - models["unet_eps"]).abs().max() < 1e-5
    assert (posterior.mean - models["vae_mean"]).abs().max() < 1e-5
    assert (posterior.std - models["vae_std"]).abs().max() < 1e-5
    assert (decoded - models["vae_decoded"]).abs().max() < 5e-5
    (seen,) = expected("safety.safetensors").values()
    image = pipe.image_processor.numpy_to_pil(inputs["image"].permute(0, 2, 3, 1).numpy())
    shown = pipe.feature_extractor(image, return_tensors="pt").pixel_values
    assert (shown - seen).abs().max() < 1e-5


def test_a_triggered_checker_blackens(load: Callable[..., Any]) -> None:
    pipe = load()
    assert pipe("猫", num_inference_steps=1).nsfw_content_detected == [False]
    pipe.safety_checker.concept_embeds_weights.data.fill_(-1.0)
    out = pipe("猫", num_inference_steps=1, output_type="np")
    assert out.nsfw_content_detected == [True] and not out.images.any()


def test_seventy_seven_positions(reference: Path, expected: Callable[[str], Any]) -> None:
    from transformers import BertTokenizer, CLIPTextModel

    text = expected("text.json")
    tokenizer = BertTokenizer.from_pretrained(reference / "text_only/tokenizer")
    encoder = CLIPTextModel.from_pretrained(reference / "text_only/text_encoder")
    ids = tokenizer(text["texts"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        assert (encoder(ids)[0] - expected("text.safetensors")["text_only_embeddings"]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_all_components_in_one_dtype(load: Callable[..., Any], reference: Path, dtype: str) -> None:
    pipe = load(dtype=dtype, controlnet=reference / "controlnet")
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.safety_checker, pipe.controlnet)
    assert {part.dtype for part in parts} == {getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[dtype])}


def test_half_precision_files_do_not_load_mixed(reference: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reference / "pipeline", tmp_path / "half"))
    for path in folder.rglob("*.bin"):
        state = {name: tensor.cast(np.dtype("<f2")) if tensor.dtype == np.float32 else tensor
                 for name, tensor in pickles.load(path).items()}
        path.unlink()
        pickles.dump(path, state)
    pipe: Any = danqing.load(folder, device="cpu")
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.safety_checker)} == {torch.float32}
    assert pipe("猫", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)


def test_nothing_is_said(places: dict[str, Path], reference: Path) -> None:
    """In a fresh interpreter: no warning that a user could not act on, whatever is added."""
    script = ("import sys, danqing; folder, golden = sys.argv[1:]; p = danqing.load(folder, device='cpu', "
              "scheduler='unipc', lora=[golden + '/lora_attn_procs', (golden + '/lora_checkpoint/checkpoint-5', 0.5)], "
              "embeddings=[golden + '/textual_inversion'], controlnet=golden + '/controlnet')")
    done = subprocess.run([sys.executable, "-W", "default::UserWarning", "-c", script, str(places["2023"]), str(reference)],
                          capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---------------------------------------------------------------- what is added

def test_additions(load: Callable[..., Any], reference: Path) -> None:
    pipe = load("single", scheduler="dpmsolver++", lora=[(reference / "lora_attn_procs", 0.5)],
                embeddings=[reference / "textual_inversion"], controlnet=reference / "controlnet")
    assert type(pipe).__name__ == "StableDiffusionControlNetPipeline"
    assert pipe.scheduler.config["final_sigmas_type"] == "sigma_min"
    assert len(adapter_tensors(pipe.unet, "lora_attn_procs")) == 256
    assert pipe.tokenizer.convert_tokens_to_ids("<小奶猫>") == 363
    assert pipe.danqing_family == "pai-diffusion"


def test_a_solver_in_the_folder_ends_where_it_ended(reference: Path, tmp_path: Path, equals_run: Callable[..., None]) -> None:
    folder = Path(shutil.copytree(reference / "pipeline", tmp_path / "solver"))
    for path in (folder / "model_index.json", folder / "scheduler/scheduler_config.json"):
        path.write_text(path.read_text().replace("PNDMScheduler", "UniPCMultistepScheduler"))
    pipe: Any = danqing.load(folder, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    equals_run(pipe, "unipc")


def test_a_tokenizer_without_limit(reference: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reference / "pipeline", tmp_path / "open"))
    path = folder / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_bytes()).items()
                                if name != "model_max_length"}))
    pipe: Any = danqing.load(folder, device="cpu")
    assert pipe.tokenizer.model_max_length == 32


def test_a_vocabulary_of_another_checkpoint(reference: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reference / "pipeline", tmp_path / "long"))
    with (folder / "tokenizer/vocab.txt").open("a", encoding="utf-8") as file:
        file.write("龙\n凤\n")
    with pytest.raises(FormatError, match="365 words and the text encoder 363 embeddings"):
        danqing.load(folder, device="cpu")


def test_a_controlnet_of_another_model(load: Callable[..., Any], reference: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reference / "controlnet", tmp_path / "other"))
    config = json.loads((folder / "config.json").read_bytes())
    state = pickles.load(folder / "diffusion_pytorch_model.bin")
    wide = {name: Tensor.of(np.zeros((*tensor.shape[:1], 48), np.float16)) if tensor.shape[1:] == (32,) and "attn2.to_" in
            name and "to_q" not in name and "out" not in name else tensor for name, tensor in state.items()}
    (folder / "diffusion_pytorch_model.bin").unlink()
    pickles.dump(folder / "diffusion_pytorch_model.bin", wide)
    (folder / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 48}))
    with pytest.raises(ConversionError, match="cross_attention_dim 48 instead of 32"):
        load(controlnet=folder)
    with pytest.raises(FormatError, match="no ControlNet folder"):
        load(controlnet=reference / "pipeline/unet")


def test_a_painter_takes_none_of_it(painter_checkpoint: Path, reference: Path) -> None:
    with pytest.raises(RequestError, match="takes no scheduler, lora; only diffusion models do"):
        danqing.load(painter_checkpoint, device="cpu", scheduler="ddim", lora=[reference / "lora_attn_procs"])


# ---------------------------------------------------------------- stock loaders on what we write

def test_stock_diffusers_loads_the_renewed_folder(
    places: dict[str, Path], equals_run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(places["renewed"], use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    assert caplog.messages == []
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.safety_checker)} == {torch.float32}
    equals_run(pipe, "pndm_negative")


def test_stock_from_single_file_with_the_configuration_beside_it(
    places: dict[str, Path], reference: Path, equals_run: Callable[..., None]
) -> None:
    """Also with the file of 2023; with a configuration of 2023 it fails on the old name of the feature extractor."""
    for weights in (places["file"], reference / "single_file/model.ckpt"):
        pipe = StableDiffusionPipeline.from_single_file(
            str(weights), config=str(places["single"] / "config"), local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        assert pipe.tokenizer.model_max_length == 32
        equals_run(pipe, "pndm_negative")
    with pytest.raises(AttributeError, match="CLIPFeatureExtractor"):
        StableDiffusionPipeline.from_single_file(
            str(reference / "single_file/model.ckpt"), config=str(reference / "pipeline"), local_files_only=True)


def test_rows(places: dict[str, Path]) -> None:
    rows = danqing.pipeline("text2image_generation", places["renewed"], device="cpu", max_generated_num=2)(
        ["猫", "狗"], num_inference_steps=1, seed=1)
    assert [len(row["gen_imgbase64"]) for row in rows] == [2, 2]


@pytest.fixture(autouse=True)
def _no_bars() -> Iterator[None]:
    from diffusers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
