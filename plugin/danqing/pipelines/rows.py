"""What EasyNLP's painter handed back: rows with the picture as text.

The predictor (``easynlp --mode=predict``) gave ``{idx, text, gen_imgbase64}``, ``pipeline("text2image_generation")``
gave ``{gen_imgbase64}``; ``gen_imgbase64`` is a list of PNGs in standard base64, one for each image of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danqing_pack.errors import RequestError
from PIL.Image import Image
from torch import Tensor

from danqing.images import to_base64
from danqing.pipelines.painter import PainterPipeline

Row = dict[str, Any]


def image_row(images: Sequence[Image]) -> Row:
    """The row of the pipelines API for the images of one text."""
    return {"gen_imgbase64": [to_base64(image) for image in images]}


def image_rows(pipe: PainterPipeline, texts: Sequence[str], num_images: int = 1, **keywords: Any) -> list[Row]:
    """One row of the pipelines API for each text; ``keywords`` are those of the pipeline's call."""
    return [image_row(images) for images in _drawn(pipe, texts, num_images, keywords)]


def pipeline_rows(
    pipe: PainterPipeline, texts: Sequence[str], max_generated_num: int | str = 1, **keywords: Any
) -> list[Row]:
    """``image_rows`` under EasyNLP's parameter, which may come as text, as on its command line."""
    try:
        number = int(max_generated_num)
    except ValueError:
        raise RequestError(f"max_generated_num must be a whole number, not {max_generated_num!r}.") from None
    return image_rows(pipe, texts, number, **keywords)


def predictor_rows(
    pipe: PainterPipeline, records: Sequence[Mapping[str, Any]], text_column: str = "text", num_images: int = 1,
    **keywords: Any,
) -> list[Row]:  # fmt: skip
    """One row of the predictor for each record; ``idx`` passes through, ``text`` is what the painter read."""
    texts = [record[text_column] for record in records]
    read = read_texts(pipe, texts)
    rows = [image_row(images) for images in _drawn(pipe, texts, num_images, keywords)]
    return [
        {"idx": record["idx"], "text": text, **row} for record, text, row in zip(records, read, rows, strict=True)
    ]


def read_texts(pipe: PainterPipeline, texts: Sequence[str]) -> list[str]:
    """What is left of each text after tokenising: lower case, cut, without spaces, special tokens and unknown words."""
    ids = pipe.encode_prompt(texts) - pipe.transformer.config.image_vocab_size
    return [_text(pipe, each) for each in ids]


def _text(pipe: PainterPipeline, ids: Tensor) -> str:
    return str(pipe.tokenizer.decode(ids, skip_special_tokens=True)).replace(" ", "")


def _drawn(
    pipe: PainterPipeline, texts: Sequence[str], num_images: int, keywords: Mapping[str, Any]
) -> Iterator[list[Image]]:
    (images,) = pipe(list(texts), num_images_per_prompt=num_images, return_dict=False, **keywords)
    return (images[start : start + num_images] for start in range(0, len(images), num_images))
