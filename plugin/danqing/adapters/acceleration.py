"""Speed-ups for a stock Stable Diffusion pipeline: each can be had alone, ``pick`` chooses a set for a device.

Nothing here touches torch's global state. The plain pipeline and an accelerated one differ by rounding only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from danqing_pack.errors import RequestError

from danqing.adapters.graphs import GraphedForward
from danqing.adapters.lora import fuse_loras
from danqing.quiet import quiet_libraries

Level = Literal["quick", "max"]
LEVELS: tuple[Level, ...] = ("quick", "max")
WORTH = 1.3
"""How much faster bf16 products must be before a CPU pipeline is cast: below this, casts in between eat the gain."""

SMALL = 50_000_000
"""Parameters of a UNet below which bf16 was measured to be slower on a CPU, although large products gain."""


@dataclass(frozen=True)
class Speedups:
    """What to change; the defaults change nothing."""

    dtype: torch.dtype | None = None
    channels_last: bool = False
    fused_qkv: bool = False
    graphs: bool = False
    compiled: Literal["", "regional", "whole"] = ""

    def __str__(self) -> str:
        words = [
            str(self.dtype).removeprefix("torch.") if self.dtype else "",
            "channels-last" if self.channels_last else "",
            "fused q, k, v" if self.fused_qkv else "",
            "CUDA graph of the UNet" if self.graphs else "",
            f"torch.compile ({self.compiled})" if self.compiled else "",
        ]
        return ", ".join(word for word in words if word) or "nothing that would pay"


def pick(device: torch.device | str, level: Level = "quick", parameters: int | None = None) -> Speedups:
    """A set that pays on ``device``: ``quick`` is ready at once, ``max`` compiles first, which takes minutes.

    ``parameters`` counts those of the UNet; on a CPU a small one stays in fp32, as its products are too short for bf16.

    Raises ``RequestError`` for a level that is neither.
    """
    if level not in LEVELS:
        raise RequestError(f"There is no speed level {level!r}; choose one of {', '.join(LEVELS)}.")
    if torch.device(device).type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        if level == "max":
            return Speedups(dtype, channels_last=True, fused_qkv=True, compiled="whole")
        return Speedups(dtype, channels_last=True, fused_qkv=True, graphs=True)
    # Measured on CPUs: compiling costs minutes for nothing, so both levels are one; fused projections change nothing,
    # and channels-last pays in bf16 alone.
    long_enough = parameters is None or parameters >= SMALL
    return Speedups(torch.bfloat16, channels_last=True) if long_enough and bf16_gain() >= WORTH else Speedups()


def accelerate(pipe: Any, speedups: Speedups | None = None, level: Level = "quick") -> Speedups:
    """Apply ``speedups``, or those that ``pick`` chooses for the pipeline's device, and return them.

    LoRAs are added to the weights first, at their scales: fused projections and captured graphs would ignore them.
    """
    parameters = sum(parameter.numel() for parameter in pipe.unet.parameters())
    chosen = speedups if speedups is not None else pick(pipe.device, level, parameters)
    fuse_loras(pipe)
    if chosen.dtype is not None:
        with quiet_libraries():
            pipe.to(dtype=chosen.dtype)
    if chosen.fused_qkv:
        # The fused layers are drawn at random before they are filled; nobody else's draws may shift by that.
        with torch.random.fork_rng([pipe.device] if pipe.device.type == "cuda" else []):
            pipe.fuse_qkv_projections()
    for name in ("unet", "vae", "controlnet"):
        model = getattr(pipe, name, None)
        if model is not None and chosen.channels_last:
            model.to(memory_format=torch.channels_last)
    if chosen.graphs:
        if pipe.device.type != "cuda":
            raise RequestError(f"CUDA graphs need a CUDA device; this pipeline is on {pipe.device}.")
        pipe.unet.forward = GraphedForward(pipe.unet)
    if chosen.compiled == "regional":
        pipe.unet.compile_repeated_blocks(fullgraph=True)
    elif chosen.compiled == "whole":
        mode = {"mode": "reduce-overhead"} if pipe.device.type == "cuda" else {}
        pipe.unet.compile(fullgraph=True, dynamic=False, **mode)
        pipe.vae.decoder.compile(fullgraph=True, dynamic=False)
    return chosen


def bf16_gain(size: int = 1024, rounds: int = 5) -> float:
    """How many times faster this CPU multiplies bf16 matrices than fp32 ones: the best of a few rounds, in 0.1 s."""
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(size, size, dtype=dtype)
        right = torch.ones(size, size, dtype=dtype)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            torch.mm(left, right)
            seconds.append(time.perf_counter() - start)
            if dtype == torch.bfloat16 and seconds[0] > 1.0:
                break  # emulated, and far too slow to ask again
        best[dtype] = min(seconds)
    return best[torch.float32] / best[torch.bfloat16]
