"""Danqing 丹青: Chinese text-to-image models in diffusers, ModelScope and PAI-EAS.

    import danqing
    pipe = danqing.load("path/or/bundle.tar.gz")                                # a diffusers pipeline
    rows = danqing.pipeline("text2image_generation", "path")(["宽松T恤"])        # EasyNLP's call and rows

Importing this imports nothing heavy; the functions do. It also registers with ModelScope, diffusers and transformers,
now or as soon as they are imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import danqing_autoload

from danqing.version import __version__

if TYPE_CHECKING:
    from danqing.easynlp_pipeline import pipeline
    from danqing.loading import load
    from danqing.upscaling import load_upscaler

__all__ = ["__version__", "load", "load_upscaler", "pipeline"]

_HOMES = {
    "load": "danqing.loading", "load_upscaler": "danqing.upscaling", "pipeline": "danqing.easynlp_pipeline",
}

danqing_autoload.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
