"""LoRAs on a pipeline: loaded by diffusers, then counted, because its loaders apply nothing in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from danqing_pack.errors import ConversionError, MissingExtraError, RequestError, listing
from danqing_pack.loras import Lora, open_lora
from torch import nn

from danqing.building import torch_tensor
from danqing.quiet import quiet_libraries

COMPONENTS = ("unet", "text_encoder")
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class AppliedLora:
    """What one file added to a pipeline: the adapter's name, its scale, the number of tensors now in place."""

    path: Path
    name: str
    scale: float
    tensors: int

    def __str__(self) -> str:
        return f"LoRA {self.path.name}: {self.tensors} tensors at scale {self.scale:g}"


def apply_loras(pipe: Any, loras: Iterable[tuple[str | Path, float]]) -> tuple[AppliedLora, ...]:
    """Load each (path, scale) into ``pipe`` as an adapter of its own and switch all of them on.

    Paths are files or folders in any form that ``danqing_pack.loras`` knows. Adapters that the pipeline already
    carries stay as they are. Raises ``FormatError`` for what is no LoRA, ``ConversionError`` with ``problems`` for one
    whose layers are not those of this model; the pipeline then carries what it carried before. Raises ``RequestError``
    for a pipeline whose projections are fused.
    """
    given = [(open_lora(path), float(scale)) for path, scale in loras]
    if not given:
        return ()
    if find_spec("peft") is None:
        raise MissingExtraError("LoRA files need the package peft; pip install peft.", extra="peft")
    if any(getattr(module, "fused_projections", False) for module in pipe.unet.modules()):
        raise RequestError("Fused projections would pass over a LoRA; load it before the pipeline is made faster.")
    before = dict(zip(*_active(pipe), strict=True))
    applied: list[AppliedLora] = []
    try:
        for lora, scale in given:
            name = _free_name(pipe, lora.path)
            applied.append(AppliedLora(lora.path, name, scale, _load(pipe, lora, name)))
    except BaseException:
        if applied:
            pipe.delete_adapters([one.name for one in applied])
        raise
    scales = before | {one.name: one.scale for one in applied}
    pipe.set_adapters(list(scales), list(scales.values()))
    return tuple(applied)


def fuse_loras(pipe: Any) -> None:
    """Add the active LoRAs to the weights, each at its scale, and drop the adapters: the same images, fewer layers."""
    carrying = [name for name in COMPONENTS if getattr(getattr(pipe, name), "peft_config", None)]
    if carrying:
        pipe.fuse_lora(components=carrying)
        pipe.unload_lora_weights()


def _load(pipe: Any, lora: Lora, name: str) -> int:
    """Load one file under this adapter name; the number of tensors that are in place afterwards."""
    tensors = {key: torch_tensor(tensor) for key, tensor in lora.modern().items()}
    state, alphas = pipe.lora_state_dict(tensors)
    parts = {part: _peft_names(part, state) for part in COMPONENTS}
    lost = [key for key in state if key.split(".")[0] not in COMPONENTS]
    problems = [f"{key} belongs to no part of this pipeline" for key in lost]
    for part, layers in parts.items():
        problems += [f"{part}.{problem}" for problem in _misfits(getattr(pipe, part), layers)]
    if problems or not any(parts.values()):
        raise ConversionError(
            f"The LoRA {lora.path} was made for another model: {listing(problems) or 'it has no layer'}.",
            problems=problems,
        )
    options: dict[str, Any] = {"network_alphas": alphas, "adapter_name": name, "_pipeline": pipe}
    with quiet_libraries():
        if parts["unet"]:
            pipe.load_lora_into_unet(state, unet=pipe.unet, low_cpu_mem_usage=True, **options)
        if parts["text_encoder"]:
            pipe.load_lora_into_text_encoder(
                state, text_encoder=pipe.text_encoder, low_cpu_mem_usage=True, **options)
    expected = sum(len(layers) for layers in parts.values())
    counted = sum(len(adapter_tensors(getattr(pipe, part), name)) for part in COMPONENTS)
    if counted != expected:
        pipe.delete_adapters(name)
        raise ConversionError(f"Of {expected} tensors in {lora.path} only {counted} were applied.", counted=counted)
    return counted


def adapter_tensors(model: nn.Module, name: str) -> State:
    """The tensors of adapter ``name`` that hold values in ``model``, by their PEFT names without the adapter's."""
    found = {}
    for path, module in model.named_modules():
        for side in ("lora_A", "lora_B"):
            layers = getattr(module, side, None)
            if isinstance(layers, nn.ModuleDict) and name in layers:
                weight = layers[name].weight
                if isinstance(weight, torch.Tensor) and not weight.is_meta:
                    found[f"{path}.{side}.weight"] = weight
    return found


def _peft_names(part: str, state: Mapping[str, torch.Tensor]) -> State:
    """The tensors of one component under PEFT's names, without the component's."""
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
    if not own:
        return {}
    if part == "unet":
        return dict(own if any("lora_A" in key for key in own) else convert_unet_state_dict_to_peft(own))
    renamed = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
    return {key.removeprefix("text_model."): value for key, value in renamed.items()}


def _misfits(model: nn.Module, layers: State) -> list[str]:
    """Every layer that ``model`` does not have, has in another size, or for which one side is missing."""
    modules = {path.removeprefix("text_model."): module for path, module in model.named_modules()}
    problems = []
    for key, value in layers.items():
        path, _, side = key.removesuffix(".weight").rpartition(".")
        other = {"lora_A": "lora_B", "lora_B": "lora_A"}.get(side, "")
        base = getattr(modules.get(path), "base_layer", modules.get(path))
        weight = getattr(base, "weight", None)
        if not isinstance(weight, torch.Tensor):
            problems.append(f"{path} is no layer of the model")
        elif f"{path}.{other}.weight" not in layers:
            problems.append(f"{path} has no {other or 'LoRA tensors'}")
        elif value.shape[axis := int(side == "lora_A")] != weight.shape[axis]:
            problems.append(f"{path} is {weight.shape[axis]} wide, its {side} {value.shape[axis]}")
    return problems


def _free_name(pipe: Any, path: Path) -> str:
    """An adapter name after the file, or after its folder where the file has a standard name; dots are PEFT's."""
    plain = path.parent.name if path.name.startswith(("pytorch_", "adapter_model")) else path.stem
    name = wanted = plain.replace(".", "_") or "lora"
    taken = {each for names in pipe.get_list_adapters().values() for each in names}
    number = 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _active(pipe: Any) -> tuple[list[str], list[float]]:
    """The adapters that are switched on, with their scales."""
    names = sorted({name for name in pipe.get_active_adapters()})
    scales = [_scale_of(pipe, name) for name in names]
    return names, scales


def _scale_of(pipe: Any, name: str) -> float:
    """The scale of an adapter, read back from its first layer: PEFT keeps alpha / rank times the scale."""
    for part in COMPONENTS:
        for module in getattr(pipe, part).modules():
            scaling = getattr(module, "scaling", None)
            if isinstance(scaling, dict) and name in scaling:
                own = module.lora_alpha[name] / module.r[name]
                return float(scaling[name] / own)
    return 1.0
