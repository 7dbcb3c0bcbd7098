"""One CUDA graph for each input shape of a network: a step is then one launch instead of a thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Shapes = tuple[Any, ...]
WARM_UPS = 3
"""Runs before the capture, so that cuDNN has chosen its kernels; what PyTorch's documentation asks for."""


class GraphedForward:
    """A module's ``forward`` replayed from CUDA graphs, one for each combination of input shapes.

    Calls that a graph cannot stand for go to the module itself: arguments other than tensors, adapters (their scales
    would be frozen into the graph), anything that needs gradients.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._plain: Callable[..., Any] = module.forward
        self._graphs: dict[Shapes, _Captured] = {}

    def __call__(
        self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, *args: Any,
        return_dict: bool = True, **options: Any,
    ) -> Any:
        """As ``UNet2DConditionModel.forward``; the output is a tensor of its own."""
        given = {name: value for name, value in options.items() if value is not None}
        if args or return_dict or torch.is_grad_enabled() or not self._can(sample, given):
            return self._plain(
                sample, timestep, encoder_hidden_states, *args, return_dict=return_dict, **options
            )
        # A scalar timestep would be copied from the host inside the graph.
        steps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0]).contiguous()
        inputs = {"sample": sample, "timestep": steps, "encoder_hidden_states": encoder_hidden_states, **given}
        flat = _flat(inputs)
        key = (self._weights_at(), tuple((name, tuple(leaf.shape), leaf.dtype) for name, leaf in flat.items()))
        if key not in self._graphs:
            self._graphs = {old: graph for old, graph in self._graphs.items() if old[0] == key[0]}
            self._graphs[key] = _Captured(self._plain, inputs)
        return (self._graphs[key].replay(flat),)

    def _can(self, sample: torch.Tensor, given: dict[str, Any]) -> bool:
        return (
            sample.is_cuda
            and not getattr(self._module, "peft_config", None)
            and all(isinstance(value, torch.Tensor) or _tensors(value) for value in given.values())
        )

    def _weights_at(self) -> int:
        """Where the first weight lies: a moved or cast module needs new graphs."""
        return next(self._module.parameters()).data_ptr()


class _Captured:
    """A graph with the memory of its inputs and its output."""

    def __init__(self, forward: Callable[..., Any], inputs: dict[str, Any]) -> None:
        self._inputs = {name: _copies(value) for name, value in inputs.items()}
        self._flat = _flat(self._inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                forward(**self._inputs, return_dict=False)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output: torch.Tensor = forward(**self._inputs, return_dict=False)[0]

    def replay(self, flat: dict[str, torch.Tensor]) -> torch.Tensor:
        """The output for these inputs, named as at the capture."""
        for name, leaf in flat.items():
            self._flat[name].copy_(leaf)
        self._graph.replay()
        return self._output.clone()


def _tensors(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(each, torch.Tensor) for each in value)


def _copies(value: Any) -> Any:
    return [each.clone() for each in value] if _tensors(value) else value.clone()


def _flat(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor under a name of its own, in a fixed order."""
    out = {}
    for name, value in inputs.items():
        for i, leaf in enumerate(value if _tensors(value) else [value]):
            out[f"{name}.{i}"] = leaf
    return out
