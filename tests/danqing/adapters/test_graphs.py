"""What surrounds a CUDA graph, with the graph itself replaced by a plain call on the graph's own memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing.adapters import graphs
from danqing.adapters.controlnet import load_controlnet
from danqing.adapters.lora import apply_loras
from danqing.adapters.variants import variant


class Recorded(graphs._Captured):
    """Runs the module anew on the captured inputs, where a graph would be replayed."""

    made: list[Recorded] = []

    def __init__(self, forward: Callable[..., Any], inputs: dict[str, Any]) -> None:
        self._forward = forward
        self._inputs = {name: graphs._copies(value) for name, value in inputs.items()}
        self._flat = graphs._flat(self._inputs)
        self.replays = 0
        self.made.append(self)

    def replay(self, flat: dict[str, torch.Tensor]) -> torch.Tensor:
        for name, leaf in flat.items():
            self._flat[name].copy_(leaf)
        self.replays += 1
        out: torch.Tensor = self._forward(**self._inputs, return_dict=False)[0]
        return out


@pytest.fixture
def graphed(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(graphs, "_Captured", Recorded)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    Recorded.made = []
    pipe.unet.forward = graphs.GraphedForward(pipe.unet)
    return pipe


def test_one_graph_for_a_run(graphed: Any, equals_run: Callable[..., None]) -> None:
    equals_run(graphed, "pndm_negative")
    equals_run(graphed, "pndm_negative")
    assert [graph.replays for graph in Recorded.made] == [22]


def test_another_shape_is_another_graph(graphed: Any, equals_run: Callable[..., None]) -> None:
    graphed("猫", num_inference_steps=2, guidance_scale=1.0, output_type="np")
    equals_run(graphed, "pndm_negative")
    assert len(Recorded.made) == 2


def test_residuals_of_a_controlnet_go_in(
    graphed: Any, reference: Path, inputs: dict[str, torch.Tensor], equals_run: Callable[..., None]
) -> None:
    steered = variant(graphed, controlnet=load_controlnet(reference / "controlnet", torch.float32))
    equals_run(steered, "controlnet", image=inputs["control_image"])
    assert Recorded.made and Recorded.made[0].replays == 11


def test_moved_weights_need_a_new_graph(graphed: Any) -> None:
    def draw() -> None:
        graphed("猫", num_inference_steps=1, output_type="np")

    draw()
    graphed.unet.to(torch.float64).to(torch.float32)
    draw()
    assert len(Recorded.made) == 2


def test_what_a_graph_cannot_stand_for_is_run_plainly(
    graphed: Any, reference: Path, inputs: dict[str, torch.Tensor], text_context: torch.Tensor
) -> None:
    with torch.no_grad():
        graphed.unet(inputs["unet_sample"], 501, text_context)
        graphed.unet(inputs["unet_sample"], 501, text_context, return_dict=False, cross_attention_kwargs={"scale": 0.5})
    graphed.unet(inputs["unet_sample"], 501, text_context, return_dict=False)
    apply_loras(graphed, [(reference / "lora_attn_procs", 1.0)])
    graphed("猫", num_inference_steps=1, output_type="np")
    assert Recorded.made == []
