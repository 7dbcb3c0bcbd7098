"""How one image code is chosen from its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from danqing_pack.errors import RequestError
from torch import Tensor

DEFAULT_TOP_K = 100
"""EasyNLP's, and no demand: a painter of fewer codes lets all of them in."""
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class Sampling:
    """Temperature, then the ``top_k`` best scores (ties with the last of them stay in), then one draw, or the best."""

    do_sample: bool = True
    top_k: int | None = DEFAULT_TOP_K
    temperature: float = 1.0

    def check(self, vocabulary: int) -> None:
        """RequestError for what cannot be drawn from ``vocabulary`` codes."""
        if not isinstance(self.temperature, Real) or not 0 < self.temperature < float("inf"):
            raise RequestError(
                f"temperature must be a positive number, not {self.temperature!r}; "
                "a small one takes the most probable codes."
            )
        if self.top_k in (None, DEFAULT_TOP_K):
            return
        if not isinstance(self.top_k, Integral) or isinstance(self.top_k, bool) or not 1 <= self.top_k <= vocabulary:
            raise RequestError(
                f"top_k must lie between 1 and the {vocabulary} image codes of this painter, not {self.top_k!r}; "
                "the whole count leaves all of them in."
            )

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, V] scores -> [B, V] float32 probabilities."""
        scores = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        return scores.softmax(dim=-1)

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """One code for each row: int64 [B] from scores [B, V] and numbers [B] in [0, 1)."""
        if not self.do_sample:
            return logits.argmax(dim=-1)
        # In float64 the running sum loses no small probability, and no number in [0, 1) lies beyond its end.
        heights = self.probabilities(logits).double().cumsum(dim=-1)
        return torch.searchsorted(heights, uniform.double()[:, None] * heights[:, -1:], right=True)[:, 0]


def uniforms(count: int, steps: int, generators: Generators) -> Tensor:
    """Numbers in [0, 1) for ``count`` images of ``steps`` draws: float32 [count, steps].

    All numbers of an image are drawn at once from its own generator, so they do not depend on the images beside it. One
    generator for several images gives them their numbers one image after another: image k gets what the k-th of as
    many single calls with that generator would get, whatever the batch size. None stands for torch's global generator.
    """
    if generators is None or isinstance(generators, torch.Generator):
        each: list[torch.Generator | None] = [generators] * count
    else:
        each = list(generators)
    if len(each) != count:
        raise RequestError(f"{len(each)} generators were given for {count} images; give one for each, or a single one.")
    if any(one is not None and not isinstance(one, torch.Generator) for one in each):
        raise RequestError("generator must be a torch.Generator or a list of them, one for each image.")
    rows = [torch.rand(steps, generator=one, device=one.device if one is not None else "cpu").cpu() for one in each]
    return torch.stack(rows) if rows else torch.empty(0, steps)
