"""``danqing.pipeline``: EasyNLP's pipelines API over today's networks.

    danqing.pipeline("text2image_generation", path, max_generated_num=4)(["宽松T恤"])
    danqing.pipeline("pai-painter-commercial-base-zh")("宽松T恤")

Source: ``easynlp.pipelines.pipeline`` and the classes behind it; what they return is kept, key for key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from danqing_pack.errors import RequestError

from danqing.loading import load
from danqing.pipelines import ROWS

Row = dict[str, Any]
DEFAULT_MODELS = {"text2image_generation": "artist-base-zh"}
"""Tasks of EasyNLP and the model each stands for where none is named; any other word names a model."""
TASKS = (*DEFAULT_MODELS, "latent_diffusion", "text-to-image-synthesis")
"""Words that say no more than that pictures are wanted."""
NAMES = ("pai-", "artist-", "chinese-ldm-", "wukong-")
"""How the models of EasyNLP's zoo are named that draw."""


def pipeline(task_or_name: str, path: str | Path | None = None, **parameters: Any) -> EasyNLPPipeline:
    """A callable that turns texts into EasyNLP's rows.

    Args:
        task_or_name: ``text2image_generation``, or a model's name, which ``danqing.load`` then looks for.
        path: anything ``danqing.load`` takes; may be left out where a model is named.
        parameters: ``device``, ``dtype``, ``text_length``, ``weights`` and ``revision`` as for ``danqing.load``; the rest
            are EasyNLP's user parameters, such as ``max_generated_num``.

    Raises:
        FormatError: there is no such model. RequestError: another task of EasyNLP's, or a parameter that the family does
        not take.
    """
    plausible = "/" in task_or_name or task_or_name.startswith(NAMES) or path is None and "_" not in task_or_name
    if task_or_name not in TASKS and not plausible:
        raise RequestError(f"There is no task {task_or_name} here; name one of {', '.join(TASKS)}, or a model.")
    loading = {name: parameters.pop(name) for name in ("device", "dtype", "torch_dtype", "text_length", "weights", "revision")
               if name in parameters}
    pipe: Any = load(path if path is not None else DEFAULT_MODELS.get(task_or_name, task_or_name), **loading)
    return EasyNLPPipeline(pipe, parameters)


class EasyNLPPipeline:
    """A loaded model behind EasyNLP's call. ``pipe`` is the diffusers pipeline."""

    def __init__(self, pipe: Any, parameters: Mapping[str, Any]) -> None:
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
        self.parameters = dict(parameters)
        module, _, name = ROWS[pipe.danqing_family].partition(":")
        self._rows: Callable[..., list[Row]] = getattr(import_module(module), name)

    def __call__(self, texts: str | Sequence[str], **parameters: Any) -> list[Row]:
        """Rows for a text or a list of texts. ``parameters`` win over those given at construction."""
        listed = [texts] if isinstance(texts, str) else texts
        if not isinstance(listed, (list, tuple)) or not all(isinstance(text, str) for text in listed):
            raise RequestError(f"The texts must be a string or a list of strings, not {texts!r:.80}.")
        return self._rows(self.pipe, list(listed), **{**self.parameters, **parameters}) if listed else []
