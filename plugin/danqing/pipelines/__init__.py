"""The pipelines of families that no stock pipeline runs: one line for each class that a ``_class_name`` may name."""

from importlib import import_module
from typing import Any

CLASSES = {
    "PainterPipeline": "danqing.pipelines.painter",
}
"""Name -> the module that defines it. A class is fetched when it is asked for: importing this imports nothing heavy."""

ROWS = {
    "chinese-ldm": "danqing.pipelines.latent_rows:pipeline_rows",
    "pai-diffusion": "danqing.pipelines.stable_rows:pipeline_rows",
    "painter": "danqing.pipelines.rows:pipeline_rows",
}
"""Family -> the function that draws texts and returns EasyNLP's rows: (pipe, texts, **user parameters) -> rows."""


def __getattr__(name: str) -> Any:
    if name not in CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(CLASSES[name]), name)
