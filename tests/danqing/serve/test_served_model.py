"""What a diffusion model makes of a request, held against its own pipelines."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from danqing.adapters.variants import variant
from danqing.orders import SharedPipeline
from danqing.serve.contract import Limits
from danqing.serve.pictures import encoded, picture
from danqing.serve.served_model import ServedModel
from danqing.serve.service import Service
from PIL import Image

SMALL: dict[str, Any] = {"text": "一只猫", "num_inference_steps": 3, "width": 64, "height": 64, "seed": 11}


def ask(service: Service, **wish: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.answer(json.dumps(wish).encode()).body)
    return found


def drawn(reply: dict[str, Any]) -> list[Image.Image]:
    assert reply["success"], reply["error"]
    return [Image.open(io.BytesIO(base64.urlsafe_b64decode(each))) for each in reply["images_base64"]]


def apart(ours: Image.Image, theirs: Image.Image) -> int:
    assert ours.size == theirs.size
    return int(np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max())


def in_base64(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def service(make_service: Callable[..., Service], diffusion: ServedModel) -> Service:
    return make_service(diffusion)


def test_it_takes_what_its_pipeline_takes(diffusion: ServedModel, painter: ServedModel) -> None:
    assert diffusion.takes.fields == {
        "seed", "width", "height", "guidance_scale", "negative_prompt", "image", "mask", "strength"}
    assert diffusion.takes.steps
    assert painter.takes.fields == {"seed", "top_k", "temperature"}
    assert not painter.takes.steps and painter.takes.codes == 128


def test_a_seed_gives_the_pictures_of_the_command_line(service: Service, diffusion: ServedModel) -> None:
    keywords = {"num_inference_steps": 3, "width": 64, "height": 64, "guidance_scale": 4.0, "negative_prompt": "雨"}
    [[theirs]] = SharedPipeline(diffusion.pipe, {}).draw("一只猫", num_images_per_prompt=2, seed=11, **keywords)
    ours = drawn(ask(service, **SMALL, guidance_scale=4, negative_prompt="雨", num_images=2))
    assert len(ours) == 2 and all(apart(one, other) <= 1 for one, other in zip(ours, theirs, strict=True))
    assert apart(ours[0], ours[1]) > 1


def test_a_picture_to_start_from_and_a_mask(service: Service, diffusion: ServedModel) -> None:
    start = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    plain = {"num_inference_steps": 4, "strength": 0.5}
    [[[theirs]]] = SharedPipeline(variant(diffusion.pipe, image=True), {}).draw("猫", seed=3, image=start, **plain)
    wish = {"text": "猫", "seed": 3, "image": in_base64(start), **plain}
    [ours] = drawn(ask(service, **wish))
    assert apart(ours, theirs) <= 1
    [masked] = drawn(ask(service, **wish, mask=in_base64(mask)))
    assert masked.size == (64, 64) and apart(masked, ours) > 1
    [[[expected]]] = SharedPipeline(variant(diffusion.pipe, image=True, mask=True), {}).draw(
        "猫", seed=3, image=start, mask_image=mask, width=64, height=64, **plain)
    assert apart(masked, expected) <= 1


def test_a_picture_is_fitted_to_the_size_that_was_asked_for(service: Service) -> None:
    start = Image.new("RGB", (100, 70), "red")
    wish = {"text": "猫", "num_inference_steps": 2, "image": in_base64(start, "JPEG")}
    [plain] = drawn(ask(service, **wish))
    assert plain.size == (96, 64)
    [sized] = drawn(ask(service, **wish, width=64, height=72))
    assert sized.size == (64, 72)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"image": "@@@"}, "image is no base64"),
        ({"image": "AAAA"}, "image cannot be read"),
        ({"image": "/etc/passwd"}, "image"),
        ({"image": "http://127.0.0.1/x.png"}, "image is no base64"),
        ({"image": in_base64(Image.new("RGB", (64, 64)))[:60] + "AAAA"}, "image cannot be read"),
        ({"image": in_base64(Image.new("RGB", (64, 64)), "GIF")}, "image cannot be read"),
        ({"image": in_base64(Image.new("1", (5000, 5000)))}, "25000000 pixels"),
        ({"image": in_base64(Image.new("RGB", (8, 8)))}, "64 x 64 is the least"),
        ({"image": in_base64(Image.new("1", (1600, 1600)))}, "give width and height"),
        ({"image": in_base64(Image.new("RGB", (64, 64))), "mask": "AAAA"}, "mask cannot be read"),
        ({"image": in_base64(Image.new("RGB", (64, 64))), "strength": 0.1}, "leaves no step"),
        ({"upscale": True}, "upscale makes no sense"),
        ({"top_k": 5}, "top_k makes no sense"),
    ],
)
def test_what_cannot_be_drawn_is_a_400(service: Service, more: dict[str, Any], said: str) -> None:
    reply = service.answer(json.dumps({"text": "猫", "num_inference_steps": 2, **more}).encode())
    assert reply.status == 400
    assert said in json.loads(reply.body)["error"]


def test_blade_is_another_way_to_nearly_the_same_picture(service: Service, diffusion: ServedModel) -> None:
    [plain] = drawn(ask(service, **SMALL))
    [fast] = drawn(ask(service, **SMALL, use_blade=True))
    assert apart(fast, plain) <= 40, "rounding in reduced precision, no more"
    [again] = drawn(ask(service, **SMALL))
    assert apart(again, plain) == 0, "the plain path is untouched"
    assert diffusion.pipe.unet.dtype.itemsize == 4


def test_blade_takes_few_shapes_and_then_the_plain_path(
    service: Service, diffusion: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.serve.served_model.BLADE_SHAPES", len(diffusion._blade_shapes))
    assert drawn(ask(service, **{**SMALL, "width": 72}, use_blade=True))[0].size == (72, 64)
    assert (False, False, True) not in diffusion._kinds or len(diffusion._blade_shapes) <= 1


def test_leaving_stops_the_denoising(service: Service, diffusion: ServedModel, wait_until: Any, monkeypatch: Any) -> None:
    steps: list[int] = []
    plain = diffusion.pipe.scheduler.step

    def step(*args: Any, **keywords: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            ticket.cancel()
        return plain(*args, **keywords)

    monkeypatch.setattr(diffusion.pipe.scheduler, "step", step)
    body = json.dumps({**SMALL, "num_inference_steps": 100}).encode()
    with service.expecting():
        ticket = service.submit(body, lambda reply: None)
    wait_until(lambda: len(steps) >= 2)
    monkeypatch.undo()
    assert drawn(ask(service, **SMALL))
    assert len(steps) <= 3


def test_both_alphabets_of_base64_are_read() -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    standard = in_base64(noise)
    assert "+" in standard or "/" in standard
    for text in (standard, standard.replace("+", "-").replace("/", "_")):
        assert apart(picture("image", text, Limits()), noise) == 0


def test_what_goes_out_is_of_the_url_safe_alphabet_with_padding() -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    text = encoded(noise, "半\ud800个", 3)
    assert not set(text) & {"+", "/"} and len(text) % 4 == 0
    assert Image.open(io.BytesIO(base64.urlsafe_b64decode(text))).text["seed"] == "3"  # type: ignore[attr-defined]
