"""``danqing.load``: any layout, or a hub's repository, as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing_pack.detection import Opened, opened
from danqing_pack.family import Options
from danqing_pack.sides import Modern

from danqing.adapters.equipping import Equipment, LoraOption, Place, equip
from danqing.devices import resolve_device, resolve_dtype
from danqing.places import find_model

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def load(
    path_or_id: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype | None = "auto",
    text_length: int | None = None, *, revision: str | None = None, weights: str = "auto",
    torch_dtype: str | torch.dtype | None = None, scheduler: str | None = None, lora: Sequence[LoraOption] = (),
    embeddings: Sequence[Place] = (), controlnet: Place | None = None,
) -> DiffusionPipeline:
    """Load a checkpoint as a diffusers pipeline.

    Args:
        path_or_id: an EasyNLP folder, a diffusers folder, an EAS bundle, a hub's repository as ``hf:org/name`` or
            ``ms:org/name``, or a model's name (see ``danqing.places.find_model``).
        device: ``auto`` (cuda where there is one), ``cpu``, ``cuda``, ``cuda:1``; ModelScope's ``gpu`` is ``auto``.
        dtype: ``auto`` (fp32 on cpu, bf16 or fp16 on cuda), ``fp32``, ``fp16``, ``bf16`` or a torch dtype;
            ``torch_dtype`` is another name for it.
        text_length: text tokens of a painter whose files leave it open.
        revision: of a hub's repository.
        weights: ``auto``, ``ema`` or ``plain``, where a checkpoint holds both.
        scheduler: of a diffusion model: pndm, ddim, dpmsolver++, unipc, euler or lcm; the folder's own by default.
        lora: for a diffusion model: files or folders, each alone or with its scale as ``(path, scale)``.
        embeddings: for a diffusion model: textual inversion files, whose placeholders a prompt may then name.
        controlnet: for a diffusion model: the folder of a ControlNet.

    Returns:
        The pipeline, on its device. ``pipe.danqing_family`` names the family.

    Raises:
        FormatError, ConversionError, UnsafeError: what lies there cannot be loaded.
        RequestError: device or dtype cannot be had. HubError: a hub cannot deliver.
    """
    place = find_model(path_or_id, revision)
    target = resolve_device(device)
    kind = resolve_dtype(torch_dtype or dtype, target)
    with opened(place) as found:
        pipe = _pipeline(found, Options(text_length, weights), kind)
    pipe.danqing_family, pipe.danqing_source = found.family.name, place
    if target.type != "cpu":              # where it is already; asking again only makes diffusers warn of fp16
        pipe.to(target)
    equipped: DiffusionPipeline = equip(pipe, Equipment(scheduler, lora, embeddings, controlnet))
    return equipped


def _pipeline(found: Opened, options: Options, dtype: torch.dtype) -> Any:
    """A diffusers folder is read by diffusers, everything else is built from its modern form."""
    from danqing.building import build
    from danqing.progress import library_bars
    from danqing.quiet import quiet_libraries

    form = found.family.to_modern(found.form, options)
    with quiet_libraries(), library_bars():
        if not isinstance(found.form, Modern) or form.class_name != found.form.class_name:
            return build(form, dtype)       # legacy, or a folder that brings code, which is not executed
        from diffusers import DiffusionPipeline

        return DiffusionPipeline.from_pretrained(found.folder, dtype=dtype, local_files_only=True)
