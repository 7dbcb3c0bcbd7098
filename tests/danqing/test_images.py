"""Pixels, PNGs and sheets on their way out."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from danqing.images import contact_sheet, file_name, save_png, to_base64, to_pil, to_uint8
from danqing_pack.errors import RequestError
from PIL import Image
from safetensors.torch import load_file


def test_pixels_are_cut_and_not_rounded() -> None:
    values = torch.tensor([-2.0, -1.0, -0.0001, 0.0, 0.9999, 1.0, 3.0])
    pixels = to_uint8(values.expand(1, 3, 1, 7))
    assert pixels.shape == (1, 1, 7, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 127, 127, 254, 255, 255]


def test_pixels_are_those_that_the_original_wrote(golden: Path) -> None:
    folder = golden / "easynlp" / "painter_tiny" / "expected"
    floats = load_file(folder / "image.safetensors")["decode_to_img"]
    (image,) = to_pil(to_uint8(floats))
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(folder / "decode_to_img.png")))


def test_half_precision_is_widened_first() -> None:
    assert to_uint8(torch.full((1, 3, 1, 1), 0.5, dtype=torch.bfloat16))[0, 0, 0, 0] == 191


def test_base64_is_a_png_in_the_standard_alphabet() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    text = to_base64(Image.fromarray(noise))
    assert isinstance(text, str) and not set("-_\n") & set(text)
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), noise)


def test_a_png_carries_its_words(tmp_path: Path) -> None:
    path = tmp_path / "without a suffix"
    words = {"prompt": "红色的圆 \ud800🐶\n二", "seed": 7, "top_k": None, "prompts": ["一", "二"]}
    save_png(Image.new("RGB", (2, 2), "red"), path, words)
    image = Image.open(path)
    image.load()
    assert image.format == "PNG" and image.getpixel((0, 0)) == (255, 0, 0)
    assert image.text["prompt"] == "红色的圆 ?🐶\n二"
    assert {name: json.loads(image.text[name]) for name in words if name != "prompt"} == {
        "seed": 7, "top_k": None, "prompts": ["一", "二"]}  # fmt: skip


@pytest.mark.parametrize(("count", "columns", "across", "down"), [
    (1, None, 1, 1), (2, None, 2, 1), (4, None, 2, 2), (5, None, 3, 2), (5, 2, 2, 3), (3, 9, 3, 1)])  # fmt: skip
def test_a_sheet_holds_every_image_in_its_cell(count: int, columns: int | None, across: int, down: int) -> None:
    images = [Image.new("RGB", (20, 10), (index + 1, 0, 0)) for index in range(count)]
    sheet = contact_sheet(images, columns)
    assert sheet.size == (across * 28 + 8, down * 18 + 8)
    pixels = np.asarray(sheet)
    for index in range(count):
        row, column = divmod(index, across)
        cell = pixels[8 + row * 18 : 18 + row * 18, 8 + column * 28 : 28 + column * 28]
        assert (cell == (index + 1, 0, 0)).all()
    assert (pixels == 255).all(-1).sum() == sheet.width * sheet.height - count * 200


def test_a_sheet_of_different_sizes() -> None:
    sheet = contact_sheet([Image.new("RGB", (4, 30)), Image.new("L", (50, 6))])
    assert sheet.size == (2 * 58 + 8, 38 + 8)


def test_sheets_of_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="at least one image"):
        contact_sheet([])
    with pytest.raises(RequestError, match="at least one column, not 0"):
        contact_sheet([Image.new("RGB", (1, 1))], 0)


@pytest.mark.parametrize(("prompt", "name"), [
    ("宽松T恤", "宽松T恤"), ("a/b\\..: *?c", "a-b-c"), ("", "image"), ("🐶", "image"), ("../../etc", "etc"),
    ("  红 色  ", "红-色"), ("\ud800红\x00", "红")])  # fmt: skip
def test_names_of_files(prompt: str, name: str) -> None:
    assert file_name(prompt) == name


def test_names_of_files_are_short_and_whole_characters() -> None:
    assert file_name("红" * 100, limit=10) == "红红红"
    assert len(file_name("字a" * 5000).encode()) <= 60
