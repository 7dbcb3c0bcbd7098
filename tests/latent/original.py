"""What EasyNLP's latent diffusion computed, rebuilt for tests: the names of its modules, its numbers, its sampler.

`test_original.py` holds it against numbers from the original implementation; then it can say what the original would
have done with other sizes than those of the reference data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---------------------------------------------------------------- the UNet


class ResBlock(nn.Module):
    def __init__(self, wide_in: int, wide_out: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, wide_in), nn.SiLU(), nn.Conv2d(wide_in, wide_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, wide_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, wide_out), nn.SiLU(), nn.Identity(), nn.Conv2d(wide_out, wide_out, 3, padding=1))
        self.skip_connection = nn.Identity() if wide_in == wide_out else nn.Conv2d(wide_in, wide_out, 1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, keys: int, heads: int, per_head: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * per_head
        self.to_q, self.to_k, self.to_v = (nn.Linear(w, inner, bias=False) for w in (width, keys, keys))
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Identity())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (m(s).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m, s in (
            (self.to_q, x), (self.to_k, context), (self.to_v, context)))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gate(width), nn.Identity(), nn.Linear(4 * width, width))


class Block(nn.Module):
    def __init__(self, width: int, context: int, heads: int, per_head: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width, heads, per_head), Attention(width, context, heads, per_head)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = self.attn1(h, h) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff.net(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, context: int, heads: int, per_head: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(Block(width, context, heads, per_head) for _ in range(depth))

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        rows = h.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            rows = block(rows, context)
        return x + self.proj_out(rows.transpose(1, 2).unflatten(2, h.shape[2:]))


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class First(nn.Conv2d):
    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return super().forward(x)


class UNet(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, model_channels: int, num_res_blocks: int, attention_resolutions: Any,
        channel_mult: Any, context_dim: int, num_heads: int = -1, num_head_channels: int = -1,
        transformer_depth: int = 1, **_: Any,
    ) -> None:
        super().__init__()
        time, self.width = 4 * model_channels, model_channels

        def attend(width: int) -> SpatialTransformer:
            heads = num_heads if num_head_channels == -1 else width // num_head_channels
            return SpatialTransformer(width, context_dim, heads, width // heads, transformer_depth)

        self.time_embed = nn.Sequential(nn.Linear(model_channels, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList([nn.ModuleList([First(in_channels, model_channels, 3, padding=1)])])
        width, rate, skips = model_channels, 1, [model_channels]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, mult * model_channels, time)]
                width = mult * model_channels
                layers += [attend(width)] if rate in attention_resolutions else []
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(width)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(nn.ModuleList([Down(width)]))
                skips.append(width)
                rate *= 2
        self.middle_block = nn.ModuleList([ResBlock(width, width, time), attend(width), ResBlock(width, width, time)])
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for number in range(num_res_blocks + 1):
                layers = [ResBlock(width + skips.pop(), mult * model_channels, time)]
                width = mult * model_channels
                layers += [attend(width)] if rate in attention_resolutions else []
                if level and number == num_res_blocks:
                    layers.append(Up(width))
                    rate //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, x: Tensor, steps: Tensor, context: Tensor) -> Tensor:
        """x [B, C, h, w], steps [B], context [B, N, D]."""
        half = self.width // 2
        angles = steps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))
        seen: list[Tensor] = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x, time, context)
            seen.append(x)
        for layer in self.middle_block:
            x = layer(x, time, context)
        for block in self.output_blocks:
            x = torch.cat([x, seen.pop()], 1)
            for layer in block:
                x = layer(x, time, context)
        return self.out(x)


# ---------------------------------------------------------------- the text encoder


class TextBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-7), nn.LayerNorm(width, eps=1e-7)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1],) * 2, -math.inf).triu(1)
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h))


class TextTransformer(nn.Module):
    def __init__(
        self, context_length: int, vocab_size: int, output_dim: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.embedding_table = nn.Parameter(torch.randn(vocab_size, width))
        self.positional_embedding = nn.Parameter(torch.randn(context_length, width))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(TextBlock(width, heads) for _ in range(layers))})
        self.ln_final = nn.LayerNorm(width, eps=1e-7)
        self.text_projection = nn.Parameter(torch.randn(width, output_dim) * width**-0.5)

    def forward(self, ids: Tensor, normalize: bool = True, n_repeat: int = 1) -> Tensor:
        """ids [B, T] -> [B, n_repeat, output_dim]."""
        x = self.embedding_table[ids] + self.positional_embedding
        for block in self.transformer["resblocks"]:
            x = block(x)
        x = self.ln_final(x)[ids == 102] @ self.text_projection
        if normalize:
            x = x / torch.linalg.norm(x, dim=1, keepdim=True)
        return x[:, None].repeat(1, n_repeat, 1)


# ---------------------------------------------------------------- the sampler


def plms(
    predict: Callable[[Tensor, int], Tensor], alphas_cumprod: Tensor, steps: int, x: Tensor
) -> tuple[Tensor, list[int]]:
    """Latents after a run of PLMS from the noise ``x``, and the timesteps of its grid, descending.

    ``predict(x, t)`` is the guided noise.
    """
    grid = [t + 1 for t in range(0, len(alphas_cumprod), len(alphas_cumprod) // steps)]
    before = [0] + grid[:-1]
    old: list[Tensor] = []
    for i in reversed(range(len(grid))):
        now, then = alphas_cumprod[grid[i]].double(), alphas_cumprod[before[i]].double()

        def move(noise: Tensor, x: Tensor = x, now: Tensor = now, then: Tensor = then) -> Tensor:
            clean = (x - (1 - now).sqrt().float() * noise) / now.sqrt().float()
            return then.sqrt().float() * clean + (1 - then).sqrt().float() * noise

        noise = predict(x, grid[i])
        if not old:
            mixed = (noise + predict(move(noise), grid[max(i - 1, 0)])) / 2
        elif len(old) == 1:
            mixed = (3 * noise - old[-1]) / 2
        elif len(old) == 2:
            mixed = (23 * noise - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mixed = (55 * noise - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        x, old = move(mixed), [*old, noise][-3:]
    return x, grid[::-1]
