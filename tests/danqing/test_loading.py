"""``danqing.load`` and ``danqing.pipeline``: every layout gives the same pictures, every name finds its model."""

from __future__ import annotations

import shutil
from pathlib import Path

import danqing
import numpy as np
import pytest
import torch
from danqing_pack import pack
from danqing_pack.errors import FormatError, RequestError


def codes(place: Path) -> torch.Tensor:
    pipe = danqing.load(place, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return pipe(["远处的雪山", "猫"], generator=generators, output_type="codes").images


def test_every_layout_draws_the_same(painter_checkpoint: Path, painter_folder: Path, tmp_path: Path) -> None:
    pack(painter_checkpoint, tmp_path / "model.tar.gz")
    expected = codes(painter_checkpoint)
    assert expected.shape == (2, 256)
    for place in (painter_folder, tmp_path / "model.tar.gz"):
        assert torch.equal(codes(place), expected)


@pytest.mark.parametrize("layout", ["painter_checkpoint", "painter_folder"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", torch.float32])
def test_a_pipeline_has_one_dtype(layout: str, dtype: str | torch.dtype, request: pytest.FixtureRequest) -> None:
    pipe = danqing.load(request.getfixturevalue(layout), device="cpu", dtype=dtype)
    expected = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(str(dtype), torch.float32)
    assert {each.dtype for part in (pipe.vqvae, pipe.transformer) for each in part.parameters()} == {expected}
    assert not pipe.vqvae.training and not pipe.transformer.training
    assert pipe.danqing_family == "painter"


def test_torch_dtype_is_another_name_for_dtype(painter_folder: Path) -> None:
    assert danqing.load(painter_folder, device="cpu", torch_dtype=torch.bfloat16).transformer.dtype == torch.bfloat16


def torch_state() -> tuple[object, ...]:
    return (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),
            torch.random.get_rng_state().tolist())


def test_global_torch_state_is_left_alone(painter_checkpoint: Path) -> None:
    before = torch_state()
    codes(painter_checkpoint)
    assert torch_state() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_devices_by_their_words(painter_folder: Path) -> None:
    assert danqing.load(painter_folder, device="gpu").device.type == "cpu"
    with pytest.raises(RequestError, match="no CUDA device"):
        danqing.load(painter_folder, device="cuda")
    with pytest.raises(RequestError, match="abacus"):
        danqing.load(painter_folder, device="abacus")


def test_an_unknown_dtype_is_refused(painter_folder: Path) -> None:
    with pytest.raises(RequestError, match="fp8"):
        danqing.load(painter_folder, device="cpu", dtype="fp8")


def test_a_name_is_found_in_the_cache_of_easynlp(
    painter_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(painter_checkpoint, tmp_path / "modelzoo" / "alibaba-pai" / "pai-painter-tiny-zh")
    monkeypatch.setenv("EASYNLP_CACHE_ROOT", str(tmp_path))
    for name in ("pai-painter-tiny-zh", "alibaba-pai/pai-painter-tiny-zh"):
        assert danqing.load(name, device="cpu").danqing_family == "painter"
    rows = danqing.pipeline("pai-painter-tiny-zh", device="cpu")("猫")
    assert [list(row) for row in rows] == [["gen_imgbase64"]]


def test_a_name_that_is_nowhere_lists_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYNLP_CACHE_ROOT", str(tmp_path))
    with pytest.raises(FormatError) as caught:
        danqing.load("pai-painter-absent-zh")
    for place in (str(tmp_path / "modelzoo"), "hf:alibaba-pai/pai-painter-absent-zh"):
        assert place in str(caught.value)


def test_a_path_that_is_not_there_is_not_looked_for_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nothing at"):
        danqing.load(tmp_path / "absent")


def test_a_task_that_draws_nothing_is_refused(painter_checkpoint: Path) -> None:
    for word in ("text_classify", "nope"):
        with pytest.raises(RequestError, match=f"no task {word} here; name one of text2image_generation, "):
            danqing.pipeline(word, painter_checkpoint, device="cpu")
    assert danqing.pipeline("pai-painter-base-zh", painter_checkpoint, device="cpu").pipe.danqing_family == "painter"


def test_rows_of_the_pipelines_api(painter_checkpoint: Path) -> None:
    import base64
    import io

    from PIL import Image

    generate = danqing.pipeline("text2image_generation", painter_checkpoint, device="cpu", max_generated_num="2")
    rows = generate(["宽松T恤", ""], do_sample=False)
    assert [list(row) for row in rows] == [["gen_imgbase64"]] * 2 and all(len(row["gen_imgbase64"]) == 2 for row in rows)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(rows[0]["gen_imgbase64"][0]))))
    assert pixels.shape == (256, 256, 3) and pixels.dtype == np.uint8
    assert generate([]) == []
    for wrong in (None, [1], {"text": "猫"}):
        with pytest.raises(RequestError):
            generate(wrong)  # type: ignore[arg-type]
