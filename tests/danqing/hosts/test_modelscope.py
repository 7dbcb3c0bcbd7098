"""Danqing inside ModelScope, in this interpreter: what the two tasks take and return."""

from __future__ import annotations

import base64
import importlib
import io
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from danqing_pack.errors import FormatError, RequestError
from modelscope.pipelines import builder, pipeline
from PIL import Image

ROWS, IMAGES = "text2image_generation", "text-to-image-synthesis"
PROMPT = "Nike 2022 春季 红色 T-shirt!"
"""The text of the reference's greedy row."""


@pytest.fixture(scope="module")
def images(painter_folder: Path) -> Any:
    """The task that returns arrays."""
    return quiet(pipeline(IMAGES, str(painter_folder), device="cpu"))


@pytest.fixture(scope="module")
def rows(painter_folder: Path) -> Any:
    """The task that returns EasyNLP's rows."""
    return quiet(pipeline(ROWS, str(painter_folder)))


def quiet(task: Any) -> Any:
    task.pipeline.set_progress_bar_config(disable=True)
    return task


@pytest.fixture(scope="module")
def greedy(golden: Path) -> np.ndarray:
    """uint8 [256, 256, 3]: what the original painted for PROMPT with the most probable codes."""
    reference = json.loads((golden / "easynlp/painter_tiny/expected/predictor_greedy.json").read_text())
    return decoded(reference[0]["gen_imgbase64"][0])


def decoded(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Within the tolerance of the reference: one level."""
    return one.shape == other.shape and int(np.abs(one.astype(int) - other.astype(int)).max()) <= 1


def test_arrays_are_blue_green_red(images: Any, greedy: np.ndarray) -> None:
    result = images({"text": PROMPT}, do_sample=False)
    assert list(result) == ["output_imgs"] and len(result["output_imgs"]) == 1
    array = result["output_imgs"][0]
    assert (array.dtype, array.shape, array.flags["C_CONTIGUOUS"]) == (np.uint8, (256, 256, 3), True)
    assert near(array[..., ::-1], greedy)
    assert not near(array, greedy)


def test_rows_are_easynlps(rows: Any, greedy: np.ndarray) -> None:
    for given in (PROMPT, [PROMPT], {"text": PROMPT}):
        result = rows(given, do_sample=False)
        assert [list(row) for row in result] == [["gen_imgbase64"]]
        assert [type(text) for text in result[0]["gen_imgbase64"]] == [str]
        assert near(decoded(result[0]["gen_imgbase64"][0]), greedy)


@pytest.mark.parametrize("form", [lambda t: t, lambda t: {"text": t}], ids=["str", "dict"])
def test_one_input_gives_one_dict_and_a_list_gives_a_list(images: Any, form: Callable[[str], Any]) -> None:
    single = images(form("猫"), seed=1)
    listed = images([form("猫"), form("狗")], seed=1)
    paired = images((form("猫"), form("狗")), seed=1)
    assert [len(each["output_imgs"]) for each in listed] == [1, 1]
    assert np.array_equal(single["output_imgs"][0], listed[0]["output_imgs"][0])
    assert all(np.array_equal(a["output_imgs"][0], b["output_imgs"][0]) for a, b in zip(listed, paired, strict=True))


def test_keywords_at_construction_at_the_call_and_in_the_dict(painter_folder: Path, images: Any) -> None:
    built = quiet(pipeline(IMAGES, str(painter_folder), num_images_per_prompt=2, seed=5, top_k=3))
    at_construction = built("猫")["output_imgs"]
    at_call = images("猫", num_images_per_prompt=2, seed=5, top_k=3)["output_imgs"]
    in_dict = images({"text": "猫", "num_images_per_prompt": 2, "seed": 5, "top_k": 3})["output_imgs"]
    assert len(at_construction) == 2 and not np.array_equal(at_construction[0], at_construction[1])
    assert np.array_equal(at_construction, at_call) and np.array_equal(at_call, in_dict)
    second = images("猫", seed=6, top_k=3)["output_imgs"]
    assert np.array_equal(at_call[1], second[0]), "image k of a call draws from the seed plus k"


def test_easynlps_parameter(rows: Any) -> None:
    assert [len(row["gen_imgbase64"]) for row in rows(["猫", "狗"], max_generated_num=2)] == [2, 2]
    assert [len(row["gen_imgbase64"]) for row in rows({"text": ["猫", "狗", "鸟"]})] == [1, 1, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_give_the_same(rows: Any, batch_size: int) -> None:
    prompts = ["猫", "白色连衣裙" * 9, "", {"text": "狗", "seed": 50}]
    apart = [row for prompt, seed in zip(prompts, (3, 4, 5, 0), strict=True) for row in rows(prompt, seed=seed)]
    assert close(rows(prompts, batch_size=batch_size, seed=3), apart)


def close(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """The same pictures but for the rounding of a different batch."""
    texts = [[text for row in rows for text in row["gen_imgbase64"]] for rows in (one, other)]
    return len(texts[0]) == len(texts[1]) and all(near(decoded(a), decoded(b)) for a, b in zip(*texts, strict=True))


def test_two_threads_get_what_each_would_get_alone(rows: Any, painter_folder: Path) -> None:
    alone = {seed: rows("猫", seed=seed) for seed in range(6)}
    together: dict[int, Any] = {}

    def work(seeds: range) -> None:
        for seed in seeds:
            together[seed] = rows("猫", seed=seed)

    threads = [threading.Thread(target=work, args=(seeds,)) for seeds in (range(3), range(3, 6))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_data_sets_and_iterators_are_drawn_as_they_are_read(rows: Any, images: Any) -> None:
    from modelscope.msdatasets import MsDataset

    texts = ["猫", "狗"]
    expected = rows(texts, seed=2)
    lazily = rows(iter(texts), seed=2)
    assert not isinstance(lazily, list)
    assert [row for each in lazily for row in each] == expected
    data = MsDataset.load([{"text": text} for text in texts])
    assert [row for each in rows(data, seed=2) for row in each] == expected
    assert [list(each) for each in images(iter(texts))] == [["output_imgs"]] * 2


def test_the_diffusers_pipeline_is_at_hand(rows: Any, painter_folder: Path) -> None:
    assert type(rows.pipeline).__name__ == "PainterPipeline"
    assert type(rows.pipeline.vqvae).__name__ == "VQModel"
    assert (rows.model, rows.device) == (str(painter_folder), rows.pipeline.device)


def test_gpu_means_cuda_where_there_is_one(painter_folder: Path) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pipeline(ROWS, str(painter_folder), device="gpu").device.type == expected
    if not torch.cuda.is_available():
        assert pipeline(ROWS, str(painter_folder), device="gpu:1").device.type == "cpu"
        with pytest.raises(RequestError, match="no CUDA device"):
            pipeline(ROWS, str(painter_folder), device="cuda")


@pytest.mark.parametrize("word", ["dtype", "torch_dtype"])
def test_the_dtype_by_either_name(painter_folder: Path, word: str) -> None:
    task = pipeline(ROWS, str(painter_folder), **{word: torch.bfloat16})
    assert task.pipeline.transformer.dtype == task.pipeline.vqvae.dtype == torch.bfloat16


def test_an_easynlp_folder_needs_only_the_pipelines_name(painter_checkpoint: Path, greedy: np.ndarray) -> None:
    assert not (painter_checkpoint / "configuration.json").exists()
    for model in (str(painter_checkpoint), [str(painter_checkpoint)]):
        task = quiet(pipeline(ROWS, model, pipeline_name="danqing"))
        assert near(decoded(task(PROMPT, do_sample=False)[0]["gen_imgbase64"][0]), greedy)


def test_a_bundle(painter_checkpoint: Path, tmp_path: Path, greedy: np.ndarray) -> None:
    from danqing_pack import pack

    pack(painter_checkpoint, tmp_path / "painter.tar.gz")
    task = quiet(pipeline(IMAGES, str(tmp_path / "painter.tar.gz"), pipeline_name="danqing"))
    assert near(task(PROMPT, do_sample=False)["output_imgs"][0][..., ::-1], greedy)


def test_an_easynlp_folder_with_a_configuration(painter_copy: Path) -> None:
    from danqing_pack.initialising import initialise

    initialise(painter_copy)
    assert len(pipeline(IMAGES, str(painter_copy))("猫")["output_imgs"]) == 1


@pytest.mark.parametrize(
    ("given", "keywords", "sentence"),
    [
        (3, {}, "A prompt must be text, not int"),
        ({"prompt": "猫"}, {}, "a dict needs the key 'text'"),
        ("猫", {"height": 512}, "PainterPipeline takes no keyword height"),
        ("猫", {"num_images_per_prompt": 0}, "at least 1"),
    ],
)
def test_bad_calls_get_a_sentence(rows: Any, images: Any, given: Any, keywords: Any, sentence: str) -> None:
    for task in (rows, images):
        with pytest.raises(RequestError, match=sentence):
            task(given, **keywords)


def test_bad_constructions_get_a_sentence(painter_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="PainterPipeline takes no keyword height"):
        pipeline(ROWS, str(painter_folder), height=512)
    with pytest.raises(FormatError, match="no checkpoint"):
        pipeline(ROWS, str(tmp_path), pipeline_name="danqing")
    with pytest.raises(RequestError, match="a path or the id of a repository, not None"):
        pipeline(ROWS)


def test_nothing_is_warned_about(painter_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = importlib.import_module("modelscope.utils.logger").get_logger()
    logger.addHandler(caplog.handler)
    try:
        for name in (ROWS, IMAGES):
            quiet(pipeline(name, str(painter_folder)))("猫")
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


def test_the_task_is_one_of_modelscopes() -> None:
    from modelscope.utils.constant import Tasks
    from modelscope.utils.input_output import get_task_io_info

    assert Tasks.text2image_generation == ROWS
    assert Tasks.find_field_by_task(ROWS) == "multi-modal"
    assert get_task_io_info(ROWS) == ({"input": {"text": str}}, {"gen_imgbase64": list[str]})


def test_modelscopes_server_can_describe_and_call_it(rows: Any) -> None:
    from modelscope.utils import input_output as server

    information = server.get_pipeline_information_by_pipeline(rows)
    assert information.schema["input"]["properties"] == {"text": {"type": "string", "description": "The input text."}}
    assert information.schema["output"]["properties"]["gen_imgbase64"]["type"] == "array"
    body = {"input": {"text": "猫"}, "parameters": {"seed": 1}}
    result = server.call_pipeline_with_json(information, rows, body)
    assert server.pipeline_output_to_service_base64_output(ROWS, result) == rows("猫", seed=1)[0]


def test_each_task_has_a_class_of_its_own(rows: Any, images: Any) -> None:
    assert (rows.group_key, images.group_key) == (ROWS, IMAGES)
    assert type(rows) is not type(images)


def test_a_reload_of_the_registry_registers_anew(painter_folder: Path) -> None:
    registry = builder.PIPELINES
    importlib.reload(builder)
    try:
        assert builder.PIPELINES is not registry
        assert "danqing" in builder.PIPELINES.modules[ROWS] and "danqing" in builder.PIPELINES.modules[IMAGES]
    finally:
        builder.PIPELINES = registry


def test_modelscopes_own_pipelines_stay(tmp_path: Path, painter_folder: Path) -> None:
    """A folder that names another type is not ours."""
    folder = Path(shutil.copytree(painter_folder, tmp_path / "other"))
    configuration = {"framework": "pytorch", "task": IMAGES, "pipeline": {"type": "nobody-has-this"}}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    with pytest.raises(KeyError, match="nobody-has-this is not in the pipelines registry"):
        pipeline(IMAGES, str(folder))
