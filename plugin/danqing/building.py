"""A pipeline from a checkpoint's neutral form: legacy folders and bundles run without a converted copy on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from danqing_pack.errors import ConversionError, FormatError
from danqing_pack.layouts.diffusers import small_files
from danqing_pack.layouts.layout import Contents
from danqing_pack.sides import Component, Modern
from danqing_pack.tensors import Tensor

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

PLACES = {"stable_diffusion": "diffusers.pipelines.stable_diffusion"}
"""Modules that ``model_index.json`` names by another word."""


def torch_tensor(tensor: Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of our own in torch; floating values in ``dtype`` where one is given."""
    import torch

    array = np.array(tensor.array(), order="C")
    if tensor.dtype.name == "bfloat16":
        found = torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    else:
        found = torch.from_numpy(array)
    return found.to(dtype) if dtype is not None and found.is_floating_point() else found


def build(form: Modern, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline that a modern form describes, on the CPU, in one dtype, in evaluation mode."""
    import diffusers

    from danqing import pipelines

    kind = getattr(pipelines if form.class_name in pipelines.CLASSES else diffusers, form.class_name)
    with tempfile.TemporaryDirectory(prefix="danqing-") as scratch:
        Contents(small_files(form)).write(Path(scratch))
        parts: dict[str, Any] = {
            name: build_component(part, Path(scratch) / name, dtype) for name, part in form.components.items()}
    pipe: DiffusionPipeline = kind(**parts, **_arguments(form.settings))
    return pipe


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the index as the constructor takes them; an absent component is None there."""
    return {name: None if value == [None, None] else value for name, value in settings.items()}


def build_component(part: Component, folder: Path, dtype: torch.dtype) -> Any:
    """One component: a model with its weights assigned, or whatever its small files describe."""
    kind = getattr(import_module(PLACES.get(part.library, part.library)), part.class_name, None)
    if kind is None:
        raise FormatError(f"{part.library} has no class {part.class_name}, which the checkpoint names; install a newer "
                          f"{part.library}.", class_name=part.class_name)
    if not part.tensors:
        return kind.from_pretrained(folder)
    state = {name: torch_tensor(tensor, dtype) for name, tensor in part.tensors.items()}
    if "_class_name" in (part.config or {}):
        return _diffusers_model(kind, part, state)
    config = kind.config_class.from_pretrained(folder)
    model, report = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    _require_whole(part, sorted(report["missing_keys"]), sorted(report["unexpected_keys"]))
    return model.eval()


def _diffusers_model(kind: Any, part: Component, state: dict[str, torch.Tensor]) -> Any:
    """Made on the meta device, so that no weight is drawn only to be thrown away."""
    import torch

    with torch.device("meta"):
        model = kind.from_config(dict(part.config or {}))
    known = model.state_dict()
    _require_whole(part, sorted(known.keys() - state.keys()), sorted(state.keys() - known.keys()))
    model.load_state_dict(state, assign=True)
    stray = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if stray:
        raise FormatError(f"{part.class_name} computes the buffers {', '.join(stray)} itself; convert the checkpoint to "
                          "the diffusers layout and load that.", keys=stray)
    return model.eval()


def _require_whole(part: Component, missing: list[str], unknown: list[str]) -> None:
    problems = [f"{key} is missing" for key in missing] + [f"{key} has no place" for key in unknown]
    if problems:
        raise ConversionError(f"The weights do not fit {part.class_name}: {'; '.join(problems)}; check the checkpoint.",
                              problems=problems, missing=missing, unknown=unknown)
