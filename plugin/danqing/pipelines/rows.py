"""What EasyNLP's painter handed back: rows with the picture as text.

The predictor (``easynlp --mode=predict``) gave ``{idx, text, gen_imgbase64}``, ``pipeline("text2image_generation")``
gave ``{gen_imgbase64}``; ``gen_imgbase64`` is a list of PNGs in standard base64, one for each image of the text.

Both take EasyNLP's user parameters, as numbers or as the words of its command line: ``max_generated_num`` counts the
images of a text; ``text_len``, ``img_len`` and ``img_vocab_size`` may be given, but the checkpoint decides. ``seed=S``
draws image k of the call from S + k. The rest are keywords of the pipeline's call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from danqing_pack.errors import RequestError, listing
from PIL.Image import Image
from torch import Tensor

from danqing.images import to_base64
from danqing.pipelines.painter import PainterPipeline

Row = dict[str, Any]

DRAWING = (
    "generator", "do_sample", "top_k", "temperature", "callback_on_step_end", "batch_size", "image_codes", "words",
    "entity_embeddings",
)  # fmt: skip
"""Keywords of the pipeline's call that pass through."""


def image_row(images: Sequence[Image]) -> Row:
    """The row of the pipelines API for the images of one text."""
    return {"gen_imgbase64": [to_base64(image) for image in images]}


def pipeline_rows(pipe: PainterPipeline, texts: Sequence[str], **parameters: Any) -> list[Row]:
    """One row of the pipelines API for each text.

    Raises:
        RequestError: a parameter that is unknown, no number, or not the checkpoint's.
    """
    return [image_row(images) for images in _drawn(pipe, texts, parameters)]


def predictor_rows(
    pipe: PainterPipeline, records: Sequence[Mapping[str, Any]], text_column: str = "text", **parameters: Any
) -> list[Row]:
    """One row of the predictor for each record; ``idx`` passes through, ``text`` is what the painter read of it.

    Raises:
        RequestError: as ``pipeline_rows``.
    """
    texts = [record[text_column] for record in records]
    drawn = _drawn(pipe, texts, parameters)
    read = read_texts(pipe, texts)
    return [
        {"idx": record["idx"], "text": text, **image_row(images)}
        for record, text, images in zip(records, read, drawn, strict=True)
    ]


def read_texts(pipe: PainterPipeline, texts: Sequence[str]) -> list[str]:
    """What is left of each text after tokenising: lower case, cut, without spaces, special tokens and unknown words."""
    ids = pipe.encode_prompt(texts) - pipe.transformer.config.image_vocab_size
    return [_text(pipe, each) for each in ids]


def _text(pipe: PainterPipeline, ids: Tensor) -> str:
    return str(pipe.tokenizer.decode(ids, skip_special_tokens=True)).replace(" ", "")


def _drawn(pipe: PainterPipeline, texts: Sequence[str], parameters: Mapping[str, Any]) -> Iterator[list[Image]]:
    """The images of each text; everything is drawn before the first is handed out."""
    given = dict(parameters)
    _agree(pipe, given)
    count = _whole("max_generated_num", given.pop("max_generated_num", 1))
    seed = given.pop("seed", None)
    unknown = sorted(given.keys() - set(DRAWING))
    if unknown:
        known = listing(["max_generated_num", "seed", *DRAWING])
        raise RequestError(f"A painter takes no parameter {listing(unknown)}; it takes {known}.", unknown=unknown)
    if seed is not None:
        if "generator" in given:
            raise RequestError("seed and generator exclude each other: give one of them.")
        first = _whole("seed", seed)
        given["generator"] = [torch.Generator().manual_seed(first + k) for k in range(count * len(texts))]
    (images,) = pipe(list(texts), num_images_per_prompt=count, return_dict=False, **given)
    return (images[start : start + count] for start in range(0, len(images), count))


def _agree(pipe: PainterPipeline, given: dict[str, Any]) -> None:
    """Take out the sizes that EasyNLP had to be told and the checkpoint knows."""
    config = pipe.transformer.config
    sizes = {"text_len": config.text_length, "img_len": config.image_length, "img_vocab_size": config.image_vocab_size}
    for name, size in sizes.items():
        if name in given and _whole(name, given.pop(name)) != size:
            raise RequestError(f"{name} is {size} in this checkpoint; leave the parameter out.")


def _whole(name: str, value: Any) -> int:
    """A whole number, or the text of one."""
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise RequestError(f"{name} must be a whole number, not {value!r}.") from None
