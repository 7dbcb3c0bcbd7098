"""Repositories of 2023 that name a pipeline of ModelScope's own, and that this pipeline can no longer load.

``diffusers-stable-diffusion`` needs torchvision and OpenCV, ``chinese-stable-diffusion`` does not import with today's
transformers. Where the folder is Stable Diffusion with a ``BertTokenizer`` it is ours; every other one is left to
ModelScope. The types themselves cannot be registered again, since ModelScope's lazy import would then meet a duplicate.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TYPES = ("diffusers-stable-diffusion", "chinese-stable-diffusion")
COMPONENTS = {"tokenizer": ("BertTokenizer", "BertTokenizerFast"), "text_encoder": ("CLIPTextModel",)}
"""What makes such a folder ours: components of its index and the classes each may have."""
THEIRS = ("custom_dir", "modifier_token")
"""Options of ModelScope's pipeline for which we have no counterpart."""
RENAMED = {"torch_type": "torch_dtype"}
UNUSED = ("use_safetensors", "use_swift")


def take_over(type_name: str) -> None:
    """Make ``pipeline()`` build ``type_name`` for folders that are ours. May run again after a reload."""
    from modelscope.pipelines import builder

    if not hasattr(builder.build_pipeline, "danqing"):
        builder.build_pipeline = _switching(builder.build_pipeline, type_name)


def _switching(build: Callable[..., Any], type_name: str) -> Callable[..., Any]:
    @functools.wraps(build)
    def build_pipeline(cfg: Any, task_name: str | None = None, default_args: Any = None) -> Any:
        if cfg.get("type") in TYPES and is_ours(cfg.get("model")) and not any(cfg.get(name) for name in THEIRS):
            cfg["type"] = type_name
        if cfg.get("type") == type_name:
            _in_our_words(cfg)
        return build(cfg, task_name=task_name, default_args=default_args)

    build_pipeline.danqing = True  # type: ignore[attr-defined]
    return build_pipeline


def _in_our_words(cfg: Any) -> None:
    """Arguments of ModelScope's pipelines under our names, so that scripts move over unchanged."""
    for theirs, ours in RENAMED.items():
        if theirs in cfg:
            cfg[ours] = cfg.pop(theirs)
    if lora := cfg.pop("lora_dir", None):
        cfg["lora"] = [lora]
    for name in (*UNUSED, *THEIRS):
        cfg.pop(name, None)


def is_ours(model: Any) -> bool:
    """Whether ``model`` is a local folder of Stable Diffusion with a ``BertTokenizer``."""
    if isinstance(model, (list, tuple)) and len(model) == 1:
        model = model[0]
    try:
        index = json.loads((Path(model) / "model_index.json").read_bytes())
    except (TypeError, OSError, ValueError):
        return False
    return isinstance(index, dict) and all(
        isinstance(entry := index.get(name), list) and len(entry) == 2 and entry[1] in classes
        for name, classes in COMPONENTS.items())
