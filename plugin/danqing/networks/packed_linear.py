"""Linear layers as plain functions, their weights packed for oneDNN where that pays.

On CPUs a decode step is one row times every weight, so it is bound by memory. ``F.linear`` reads its weights at about
half the bandwidth that a matrix in oneDNN's blocked layout allows. The operations that pack and multiply are private to
torch, so they are probed once against ``F.linear``; where they are missing or answer differently, nothing is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

Linear = Callable[[Tensor], Tensor]
"""[..., in] -> [..., out]"""


def linear(module: nn.Module, gelu: bool = False) -> Linear:
    """What ``module`` computes, followed by an exact GELU if ``gelu``.

    A plain ``nn.Linear`` or GPT-2 ``Conv1D`` is taken apart; anything else (a LoRA layer, a quantised or an offloaded
    one) is called as it is. Packing copies the weight: later changes to the module are not seen.
    """
    if not is_plain(module):
        return (lambda states: F.gelu(module(states))) if gelu else module
    weight, bias = _parameters(module)
    if packable(weight.device, weight.dtype):
        return _packed(weight, bias, gelu)
    if gelu:
        return lambda states: F.gelu(F.linear(states, weight, bias))
    return lambda states: F.linear(states, weight, bias)


def _parameters(module: Any) -> tuple[Tensor, Tensor | None]:
    """The weight as [out, in], and the bias."""
    weight = module.weight.detach()
    bias = module.bias.detach() if module.bias is not None else None
    return weight.T if isinstance(module, Conv1D) else weight, bias


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is exactly its weight and bias: no subclass, no hook, no special tensor."""
    return (
        type(module) in (nn.Linear, Conv1D)
        and type(module.weight) is nn.Parameter
        and not module.weight.is_meta
        and not hasattr(module, "_hf_hook")
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def packable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights of this kind are worth packing and come out right."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and _probe(dtype)


def _packed(weight: Tensor, bias: Tensor | None, gelu: bool) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    attr, algorithm = ("gelu", "none") if gelu else ("none", "")

    def product(states: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, attr, [], algorithm)
        return out

    return product


@cache
def _probe(dtype: torch.dtype) -> bool:
    """One comparison with ``F.linear``, GELU included, on sizes that are no multiple of a block."""
    # A formula, not torch.rand: the probe must not advance anybody's random numbers.
    weight = torch.arange(45 * 70, dtype=torch.float32).mul(0.37).sin().reshape(45, 70)
    bias, states = weight[:, 0].clone(), weight[:2, ::2].repeat(1, 2).contiguous()
    expected = F.gelu(F.linear(states, weight, bias))
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    try:
        found = _packed(weight.to(dtype), bias.to(dtype), gelu=True)(states.to(dtype))
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return bool(torch.allclose(found.float(), expected, atol=tolerance, rtol=tolerance))
