"""EasyNLP's rows from a stock Stable Diffusion pipeline: ``{"gen_imgbase64": [...]}`` for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from danqing.orders import SharedPipeline
from danqing.pipelines.rows import Row, image_row

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def pipeline_rows(pipe: DiffusionPipeline, texts: Sequence[str], **parameters: Any) -> list[Row]:
    """One row for each text. ``parameters`` are keywords of the pipeline's call, ``seed``, and ``max_generated_num``.

    Raises:
        RequestError: a parameter that the pipeline does not take.
    """
    return [image_row(images) for (images,) in SharedPipeline(pipe, {}).draw(list(texts), **parameters)]
