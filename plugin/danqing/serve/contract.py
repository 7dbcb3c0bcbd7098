"""What a request may say and what a reply says: one table of fields, from which checks and the OpenAPI page are made.

The first five fields are those of the documented contract and are always accepted. The others are ours and optional;
a model takes those that make sense for it, and a request that brings another is told its name.
"""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
DOCUMENTED = ("text", "skip_translation", "num_inference_steps", "num_images", "use_blade")
LARGEST_SEED = 2**63 - 1
HAN = re.compile("[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
LETTER = re.compile(r"[^\W\d_]")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

REASONS = {
    408: "The answer took longer than the service's keepalive; the work was stopped.",
    450: "The queue is full; try again later.",
    499: "The client has gone; the work was stopped.",
    503: "The service is shutting down; send the request to another one.",
}
"""What is said of requests that are answered for the service's sake, and not for theirs."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. ``pixels`` counts width x height of one picture, before any upscaling."""

    body: int = 16 * 2**20
    prompt: int = 1000
    images: int = 8
    pixels: int = 1024 * 1024
    steps: int = 150


@dataclass(frozen=True)
class Takes:
    """What a model makes of a request: optional fields by name, and the numbers that bound them."""

    fields: frozenset[str]
    width: int
    height: int
    steps: bool = True
    codes: int = 0
    """Image codes of a painter."""


@dataclass(frozen=True)
class Request:
    """A request that has been checked; ``given`` holds the optional fields that it brought."""

    text: str
    num_images: int
    seed: int
    skip_translation: bool
    use_blade: bool
    given: Mapping[str, Any]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A status and a JSON body, ready to send. ``images`` counts the pictures inside."""

    status: int
    body: bytes
    images: int = 0


class Refusal(Exception):
    """A request that is answered without a picture: ``status`` and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def is_chinese(text: str) -> bool:
    """Whether a text can be drawn as it is: it has a Chinese character, or no letter of any script at all."""
    return bool(HAN.search(text)) or not LETTER.search(text)


def fields(takes: Takes, limits: Limits) -> dict[str, Schema]:
    """The JSON schema of every field that this model takes; the documented ones first."""
    side = {"type": "integer", "minimum": 64, "maximum": max(2048, takes.width, takes.height), "multipleOf": 8}
    picture = {"type": "string", "minLength": 1}
    steps = "Denoising steps." if takes.steps else "Accepted, and named in `ignored`: this model has no such steps."
    every: dict[str, Schema] = {
        "text": {"type": "string", "minLength": 1, "maxLength": limits.prompt, "pattern": r"\S",
                 "description": "What to draw. Text that is not Chinese needs a translator, or `skip_translation`."},
        "skip_translation": {"type": "boolean", "default": False, "description": "Draw the text as it is."},
        "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": limits.steps, "description": steps},
        "num_images": {"type": "integer", "minimum": 1, "maximum": limits.images, "default": 1,
                       "description": "How many pictures."},
        "use_blade": {"type": "boolean", "default": False,
                      "description": "Ask for the accelerated path; the answer is of the same form without one."},
        "seed": {"type": "integer", "minimum": 0, "maximum": LARGEST_SEED - limits.images,
                 "description": "Picture k draws from seed + k; a random seed by default, named in the reply."},
        "width": {**side, "default": takes.width, "description": "In pixels."},
        "height": {**side, "default": takes.height, "description": "In pixels."},
        "guidance_scale": {"type": "number", "minimum": 0, "maximum": 50,
                           "description": "How closely to follow the text."},
        "negative_prompt": {"type": "string", "maxLength": limits.prompt, "description": "What not to show."},
        "top_k": {"type": "integer", "minimum": 1, "maximum": max(takes.codes, 1), "default": 100,
                  "description": "Image codes that take part in a draw."},
        "temperature": {"type": "number", "minimum": 0.01, "maximum": 100, "default": 1.0,
                        "description": "How freely codes are drawn."},
        "image": {**picture, "description": "A PNG, JPEG or WebP in base64 to start from."},
        "mask": {**picture, "description": "White where `image` is to be repainted; needs `image`."},
        "strength": {"type": "number", "exclusiveMinimum": 0, "maximum": 1,
                     "description": "How much of `image` to redo."},
        "upscale": {"type": "boolean", "default": False, "description": "Four times as wide and high."},
    }
    return {name: schema for name, schema in every.items() if name in DOCUMENTED or name in takes.fields}


ALL_FIELDS = tuple(fields(Takes(frozenset({
    "seed", "width", "height", "guidance_scale", "negative_prompt", "top_k", "temperature", "image", "mask", "strength",
    "upscale"}), 512, 512), Limits()))


def read(body: bytes, takes: Takes, limits: Limits) -> Request:
    """A request out of its bytes. Raises ``Refusal`` with status 413 or 400; the sentence names every problem."""
    if len(body) > limits.body:
        raise too_large(limits)
    given = _object(body)
    schemas = fields(takes, limits)
    problems = [] if "text" in given else ["text is missing"]
    problems += [_unknown(name) for name in given if name not in schemas]
    problems += [f"{name} {problem}" for name, value in given.items()
                 if name in schemas and (problem := _problem(value, schemas[name]))]
    if problems:
        raise Refusal(400, f"The request cannot be carried out: {'; '.join(problems[:20])}.")
    # Whole numbers may come as 20.0, which JSON does not tell from 20.
    checked: dict[str, Any] = {
        name: int(value) if schemas[name]["type"] == "integer" else value for name, value in given.items()}
    _check_together(checked, takes, limits)
    ignored = () if takes.steps else tuple({"num_inference_steps"} & checked.keys())
    optional = {name: value for name, value in checked.items()
                if name not in ("text", "num_images", "seed", "skip_translation", "use_blade", *ignored)}
    return Request(
        text=checked["text"], num_images=checked.get("num_images", 1), given=optional, ignored=ignored,
        seed=checked["seed"] if "seed" in checked else random.SystemRandom().randrange(2**32),
        skip_translation=checked.get("skip_translation", False), use_blade=checked.get("use_blade", False))


def too_large(limits: Limits) -> Refusal:
    """What is said of a body over the limit."""
    return Refusal(413, f"The body is larger than the {limits.body} bytes that this service takes.")


def refused(refusal: Refusal, text: str = "") -> Reply:
    """The reply that carries a refusal, in the form of every other one."""
    return Reply(refusal.status, _body(text, [], False, error=str(refusal)))


def drawn(request: Request, text: str, images: list[str]) -> Reply:
    """The reply with pictures; ``text`` is the text that was drawn."""
    extra: dict[str, Any] = {"seed": request.seed}
    if request.ignored:
        extra["ignored"] = list(request.ignored)
    return Reply(200, _body(text, images, True, error="", **extra), len(images))


def _body(text: str, images: list[str], success: bool, **more: Any) -> bytes:
    reply = {"text": text, "images_base64": images, "success": success, **more}
    return json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace")


def _object(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"The body is not UTF-8 at byte {error.start}; send JSON in UTF-8.") from None
    try:
        given = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(400, "The body is nested too deeply; send one flat JSON object.") from None
    except ValueError as error:
        raise Refusal(400, f"The body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(given, dict):
        raise Refusal(400, 'The body is no JSON object; send one such as {"text": "..."}.')
    return given


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _unknown(name: str) -> str:
    shown = _shown(name)
    if name in ALL_FIELDS:
        return f"{name} makes no sense for this model"
    near = difflib.get_close_matches(name[:80], ALL_FIELDS, n=1)
    return f"{shown} is no field" + (f", did you mean {near[0]}" if near else "")


def _problem(value: Any, schema: Schema) -> str:
    """What is wrong with a value, or nothing."""
    kind = schema["type"]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {"string": isinstance(value, str), "boolean": isinstance(value, bool), "number": number,
            "integer": number and float(value).is_integer() if number and abs(value) < 1e300 else False}
    if not fits[kind]:
        word = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}[kind]
        return f"must be {word}, not {_shown(value)}"
    if kind == "string":
        return _text_problem(value, schema)
    if number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"must lie between {schema.get('minimum', 0)} and {schema['maximum']}, not be {_shown(value)}"
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        return f"must be above {schema['exclusiveMinimum']}"
    if "multipleOf" in schema and value % schema["multipleOf"]:
        return f"must be a multiple of {schema['multipleOf']}, not {_shown(value)}"
    return ""


def _text_problem(value: str, schema: Schema) -> str:
    if len(value) > schema.get("maxLength", len(value)):
        return f"has {len(value)} characters, and at most {schema['maxLength']} are taken"
    if len(value) < schema.get("minLength", 0) or "pattern" in schema and not re.search(schema["pattern"], value):
        return "is empty"
    if LONE_SURROGATE.search(value):
        return "holds half a surrogate pair, which is no character"
    return ""


def _check_together(given: Mapping[str, Any], takes: Takes, limits: Limits) -> None:
    for name in ("mask", "strength"):
        if name in given and "image" not in given:
            raise Refusal(400, f"The request cannot be carried out: {name} needs image.")
    width, height = given.get("width", takes.width), given.get("height", takes.height)
    most = max(limits.pixels, takes.width * takes.height)
    if width * height > most:
        raise Refusal(400, f"A picture of {width} x {height} pixels is larger than the {most} that this service draws.")


def _shown(value: Any) -> str:
    """A value for a sentence: short, and on one line."""
    plain = isinstance(value, (str, int, float, bool, type(None))) and not _huge(value)
    text = repr(value) if plain else type(value).__name__
    text = text if len(text) <= 60 else f"{text[:60]}..."
    return text.encode("utf-8", "replace").decode()


def _huge(value: Any) -> bool:
    return isinstance(value, int) and not -(10**30) < value < 10**30
