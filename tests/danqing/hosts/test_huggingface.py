"""Danqing inside diffusers and transformers, in this interpreter."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from danqing import components, pipelines
from danqing_pack.errors import RequestError
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

pipeline: Any = transformers.pipeline  # its overloads know no task but those of transformers
TASK = "text2image_generation"
PROMPT = "Nike 2022 春季 红色 T-shirt!"
"""The text of the reference's greedy row."""


@pytest.fixture(scope="module")
def draw(painter_folder: Path) -> Any:
    """The task of transformers."""
    task = pipeline(TASK, str(painter_folder), device="cpu")
    task.model.pipeline.set_progress_bar_config(disable=True)
    return task


def pixels(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        return np.asarray(image.convert("RGB"))


def test_rows_are_easynlps_in_every_form(draw: Any, golden: Path) -> None:
    reference = json.loads((golden / "easynlp/painter_tiny/expected/predictor_greedy.json").read_text())
    expected = pixels(reference[0]["gen_imgbase64"][0]).astype(int)
    for given in (PROMPT, [PROMPT], {"text": PROMPT}, [{"text": PROMPT}]):
        rows = draw(given, do_sample=False)
        assert [list(row) for row in rows] == [["gen_imgbase64"]]
        assert np.abs(pixels(rows[0]["gen_imgbase64"][0]) - expected).max() <= 1


def test_images_for_who_wants_images(draw: Any) -> None:
    images = draw(["猫", "狗"], output_type="pil", num_images_per_prompt=2, seed=1)
    assert [[image.size for image in each] for each in images] == [[(256, 256)] * 2] * 2
    rows = draw(["猫", "狗"], num_images_per_prompt=2, seed=1)
    assert np.array_equal(np.asarray(images[1][0]), pixels(rows[1]["gen_imgbase64"][0]))


def test_keywords_at_construction_and_batches(painter_folder: Path, draw: Any) -> None:
    built = pipeline(TASK, str(painter_folder), device="cpu", seed=3, top_k=5, output_type="pil", batch_size=2)
    one = built(["猫", "狗", "鸟"])
    other = draw(["猫", "狗", "鸟"], seed=3, top_k=5, output_type="pil", batch_size=1)
    for images, alone in zip(one, other, strict=True):
        assert np.abs(np.asarray(images[0], int) - np.asarray(alone[0], int)).max() <= 1


def test_data_sets_and_iterators_are_drawn_as_they_are_read(draw: Any) -> None:
    expected = draw(["猫", "狗"], seed=1)
    lazily = draw((text for text in ("猫", "狗")), seed=1)
    assert not isinstance(lazily, list) and list(lazily) == expected

    class Prompts(torch.utils.data.Dataset[str]):
        def __getitem__(self, index: int) -> str:
            return ["猫", "狗"][index]

    assert list(draw(Prompts(), seed=1)) == expected


@pytest.mark.parametrize(
    ("given", "keywords", "sentence"),
    [
        (5, {}, "A prompt must be text, not int"),
        ("猫", {"height": 512}, "PainterPipeline takes no keyword height"),
        ("猫", {"output_type": "latent"}, "output_type must be one of base64, pil, not 'latent'"),
    ],
)
def test_bad_calls_get_a_sentence(draw: Any, given: Any, keywords: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        draw(given, **keywords)


def test_bad_constructions_get_a_sentence(painter_folder: Path) -> None:
    with pytest.raises(RequestError, match="PainterPipeline takes no keyword height"):
        pipeline(TASK, str(painter_folder), height=512)
    other = transformers.BertModel(transformers.BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1))
    with pytest.raises(RequestError, match="must be a painter folder, not BertModel"):
        pipeline(TASK, model=other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_the_dtype_reaches_the_networks(painter_folder: Path, dtype: Any) -> None:
    model = pipeline(TASK, str(painter_folder), dtype=dtype).model
    assert model.dtype == model.pipeline.transformer.dtype == model.pipeline.vqvae.dtype == torch.bfloat16


def test_the_model_moves_and_knows_where_it_is(painter_folder: Path) -> None:
    model = AutoModel.from_pretrained(painter_folder)
    assert (model.device.type, model.dtype, model.training) == ("cpu", torch.float32, False)
    model.to("meta")
    assert {model.pipeline.transformer.device.type, model.pipeline.vqvae.device.type} == {"meta"}


def test_what_the_model_saves_loads_in_both_libraries(draw: Any, tmp_path: Path) -> None:
    draw.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "danqing_painter"
    expected = draw("猫", do_sample=False)
    assert pipeline(TASK, str(tmp_path), device="cpu")("猫", do_sample=False) == expected
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert np.array_equal(np.asarray(pipe("猫", do_sample=False).images[0]), pixels(expected[0]["gen_imgbase64"][0]))


def test_the_logits_of_the_model_are_those_of_its_transformer(draw: Any) -> None:
    ids = draw.model.pipeline.encode_prompt(["猫"])
    with torch.no_grad():
        assert torch.equal(draw.model(ids).logits, draw.model.pipeline.transformer(ids).logits)


def test_the_task_is_registered_once_and_quietly(caplog: pytest.LogCaptureFixture) -> None:
    from danqing.hosts.huggingface import register_with_diffusers, register_with_transformers

    registered, module_class = PIPELINE_REGISTRY.supported_tasks[TASK], type(diffusers)
    register_with_transformers()
    register_with_diffusers()
    assert PIPELINE_REGISTRY.supported_tasks[TASK] is registered and type(diffusers) is module_class
    assert caplog.records == []


def test_diffusers_offers_our_pipelines_beside_its_own() -> None:
    for name in pipelines.CLASSES:
        assert getattr(diffusers, name) is getattr(pipelines, name)
        assert name in dir(diffusers)
    assert diffusers.VQModel.__module__.startswith("diffusers.")
    with pytest.raises(AttributeError, match="NoSuchPipeline"):
        getattr(diffusers, "NoSuchPipeline")  # noqa: B009


@pytest.mark.parametrize("name", sorted(components.CLASSES))
def test_a_component_is_found_under_the_name_that_a_folder_writes(name: str) -> None:
    found = getattr(components, name)
    assert found.__name__ == name or name in ("PreTrainedTokenizer", "PreTrainedTokenizerFast")
    if components.CLASSES[name].startswith("danqing"):
        assert found.__module__ == "danqing.components"
        assert any(
            issubclass(found, getattr(components, base))
            for base, home in components.CLASSES.items()
            if not home.startswith("danqing")
        ), "diffusers finds no way to load it"


def test_components_and_pipelines_say_what_they_do_not_have() -> None:
    for module in (components, pipelines):
        with pytest.raises(AttributeError, match="has no attribute 'NoSuchClass'"):
            getattr(module, "NoSuchClass")  # noqa: B009
    assert set(components.CLASSES) <= set(dir(components))
