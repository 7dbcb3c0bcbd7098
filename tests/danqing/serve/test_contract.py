"""What a request may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from danqing.serve.contract import (
    ALL_FIELDS,
    DOCUMENTED,
    LARGEST_SEED,
    Limits,
    Refusal,
    Request,
    Takes,
    drawn,
    fields,
    is_chinese,
    read,
    refused,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PAINTER = Takes(frozenset({"seed", "top_k", "temperature"}), 256, 256, steps=False, codes=128)
DIFFUSION = Takes(frozenset(ALL_FIELDS) - {"top_k", "temperature", "upscale"}, 512, 512)


def ask(takes: Takes = PAINTER, **wish: Any) -> Request:
    return read(json.dumps(wish).encode(), takes, Limits())


def refusal(body: bytes | dict[str, Any], takes: Takes = PAINTER, limits: Limits | None = None) -> Refusal:
    with pytest.raises(Refusal) as raised:
        read(body if isinstance(body, bytes) else json.dumps(body).encode(), takes, limits or Limits())
    return raised.value


def test_the_documented_request_is_taken_by_every_model() -> None:
    wish = {"text": "猫", "skip_translation": False, "num_inference_steps": 20, "num_images": 2, "use_blade": True}
    for takes in (PAINTER, DIFFUSION):
        request = ask(takes, **wish)
        assert (request.text, request.num_images, request.use_blade, request.skip_translation) == ("猫", 2, True, False)
    assert ask(DIFFUSION, **wish).given == {"num_inference_steps": 20}
    assert ask(PAINTER, **wish).ignored == ("num_inference_steps",)


def test_a_text_is_enough() -> None:
    request = ask(text="猫")
    assert (request.num_images, request.use_blade, request.skip_translation, request.given) == (1, False, False, {})
    assert 0 <= request.seed < 2**32


def test_a_seed_is_kept() -> None:
    assert ask(text="猫", seed=7).seed == 7
    assert ask(text="猫", seed=LARGEST_SEED - 8).seed == LARGEST_SEED - 8


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    assert ask(text="猫", num_images=2.0).num_images == 2
    assert isinstance(ask(text="猫", top_k=5.0).given["top_k"], int)


def test_a_mark_of_byte_order_is_passed_over() -> None:
    assert read("\ufeff{\"text\": \"猫\"}".encode(), PAINTER, Limits()).text == "猫"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({}, "text is missing"),
        ({"text": ""}, "text is empty"),
        ({"text": " \n"}, "text is empty"),
        ({"text": None}, "text must be text"),
        ({"text": ["猫"]}, "text must be text, not list"),
        ({"text": "猫" * 1001}, "1001 characters"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "猫", "num_images": 0}, "between 1 and 8"),
        ({"text": "猫", "num_images": 9}, "between 1 and 8"),
        ({"text": "猫", "num_images": "2"}, "whole number"),
        ({"text": "猫", "num_images": True}, "whole number"),
        ({"text": "猫", "num_images": 1.5}, "whole number"),
        ({"text": "猫", "num_images": 10**400}, "num_images"),
        ({"text": "猫", "skip_translation": "false"}, "true or false"),
        ({"text": "猫", "use_blade": 1}, "true or false"),
        ({"text": "猫", "seed": -1}, "seed"),
        ({"text": "猫", "seed": 2**63}, "seed"),
        ({"text": "猫", "top_k": 129}, "between 1 and 128"),
        ({"text": "猫", "temperature": 0}, "temperature"),
        ({"text": "猫", "width": 256}, "width makes no sense for this model"),
        ({"text": "猫", "step": 3}, "'step' is no field"),
        ({"text": "猫", "num_image": 3}, "did you mean num_images"),
        ({"text": "猫", "num_images": 0, "top_k": 0, "foo": 1}, "num_images"),
    ],
)
def test_a_painter_says_what_is_wrong(wish: dict[str, Any], said: str) -> None:
    found = refusal(wish)
    assert found.status == 400
    assert said in str(found)


def test_all_problems_are_named_at_once() -> None:
    said = str(refusal({"num_images": 0, "top_k": 0, "foo": 1, "height": 8}))
    assert all(name in said for name in ("text is missing", "num_images", "top_k", "foo", "height"))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"width": 500}, "multiple of 8"),
        ({"width": 32}, "between 64 and 2048"),
        ({"width": 2048, "height": 2048}, "larger than the 1048576"),
        ({"mask": "AAAA"}, "mask needs image"),
        ({"strength": 0.5}, "strength needs image"),
        ({"strength": 0, "image": "AAAA"}, "above 0"),
        ({"num_inference_steps": 151}, "between 1 and 150"),
        ({"guidance_scale": 51}, "between 0 and 50"),
        ({"top_k": 4}, "top_k makes no sense"),
    ],
)
def test_a_diffusion_model_says_what_is_wrong(wish: dict[str, Any], said: str) -> None:
    found = refusal({"text": "猫", **wish}, DIFFUSION)
    assert found.status == 400
    assert said in str(found)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no"),
        (b"text=1", "not JSON"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        ("{\"text\": \"宽松\"}".encode("gbk"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"text": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "nested too deeply"),
        (b'["a"]', "no JSON object"),
        (b'"a"', "no JSON object"),
        (b'{"text": NaN}', "NaN"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "not JSON"),
    ],
)
def test_a_body_that_is_no_request_says_so(body: bytes, said: str) -> None:
    found = refusal(body)
    assert found.status == 400
    assert said in str(found)


def test_a_large_body_is_not_even_read() -> None:
    assert refusal(b"[" * 101, limits=Limits(body=100)).status == 413


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ALL_FIELDS) | st.text(), inner, max_size=4),
    max_leaves=8).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    for takes in (PAINTER, DIFFUSION):
        try:
            read(body, takes, Limits())
        except Refusal as found:
            assert found.status == 400
            assert json.loads(refused(found).body)["success"] is False


@pytest.mark.parametrize(
    ("text", "chinese"),
    [("猫", True), ("a 猫", True), ("𠮷", True), ("〇", True), ("123!", True), ("🐈", True), ("cat", False), ("Кот", False),
     ("ネコ", False), ("고양이", False)])
def test_chinese_is_what_has_a_chinese_character_or_nothing_to_translate(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese


def test_a_reply_has_the_documented_fields_first() -> None:
    request = ask(text="猫", seed=3, num_inference_steps=20)
    reply = drawn(request, "猫", ["AA=="])
    said = json.loads(reply.body)
    assert list(said)[:4] == ["text", "images_base64", "success", "error"]
    assert said == {"text": "猫", "images_base64": ["AA=="], "success": True, "error": "", "seed": 3,
                    "ignored": ["num_inference_steps"]}
    assert (reply.status, reply.images) == (200, 1)


def test_no_field_names_a_path_or_an_address() -> None:
    for takes in (PAINTER, DIFFUSION):
        for name, schema in fields(takes, Limits()).items():
            assert not {"url", "path", "file", "uri"} & set(name.split("_"))
            assert "format" not in schema
    assert set(DOCUMENTED) <= set(fields(PAINTER, Limits()))
