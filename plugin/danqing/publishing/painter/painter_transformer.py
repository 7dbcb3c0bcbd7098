"""The transformer of a painter: text tokens in, image codes out. It needs torch and transformers only.

The body is GPT-2 with exact GELU; its own are a head over the image codes alone, and a prefix whose tokens all see each
other (``n_unmasked``, mostly 0). A sequence is [text tokens | image codes]; text token i has the id i + image_vocab_size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, PreTrainedModel


class PainterConfig(GPT2Config):  # type: ignore[misc, unused-ignore]
    """GPT-2's sizes, and ``image_vocab_size``, ``text_length``, ``image_length``, ``n_unmasked``, ``entity_dim``."""

    model_type = "danqing_painter_transformer"


class PainterTransformer(PreTrainedModel):
    """``gpt``, ``head``, and ``ent_emb`` for painters that know entities, which are drawn here without any."""

    config_class: Any = PainterConfig
    _supports_sdpa = True
    _no_split_modules = ["GPT2Block"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gpt = GPT2Model(config)
        self.head = nn.Linear(config.n_embd, config.image_vocab_size, bias=False)
        self.ent_emb = nn.Linear(config.entity_dim, config.n_embd) if config.entity_dim else None
        self.post_init()  # type: ignore[no-untyped-call, unused-ignore]

    @torch.no_grad()
    def write_codes(self, text_ids: Tensor, numbers: Tensor | None, top_k: int | None, temperature: float) -> Tensor:
        """Image codes int64 [B, image_length] for text ids int64 [B, text_length].

        numbers: float [B, image_length] in [0, 1), which decide the draws; None takes the most probable code.
        """
        known, states, cache = text_ids, None, None
        for place in range(self.config.image_length):
            if cache is None or known.shape[1] <= self.config.n_unmasked:
                body = self.gpt(known, attention_mask=self._mask(known), use_cache=True)
            else:
                body = self.gpt(known[:, -1:], past_key_values=cache, use_cache=True)
            states, cache = body.last_hidden_state, body.past_key_values
            scores = self.head(states[:, -1])
            code = scores.argmax(-1) if numbers is None else _draw(scores, numbers[:, place], top_k, temperature)
            known = torch.cat((known, code[:, None]), dim=1)
        return known[:, text_ids.shape[1]:]

    def _mask(self, ids: Tensor) -> Tensor | None:
        """What attention adds to its scores, [1, 1, T, T]; GPT-2 makes a causal mask by itself."""
        free, weight = self.config.n_unmasked, self.gpt.wte.weight
        if not free:
            return None
        place = torch.arange(ids.shape[1], device=ids.device)
        seen = (place[:, None] >= place) | ((place[:, None] < free) & (place < free))
        mask = torch.zeros(seen.shape, dtype=weight.dtype, device=ids.device)
        return mask.masked_fill_(~seen, torch.finfo(weight.dtype).min)[None, None]


def _draw(scores: Tensor, number: Tensor, top_k: int | None, temperature: float) -> Tensor:
    """One code for each row [B] from scores [B, V]: the ``top_k`` best with ties, softmax, and a number in [0, 1)."""
    scores = scores.float() / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    heights = scores.softmax(dim=-1).double().cumsum(dim=-1)
    return torch.searchsorted(heights, number.double()[:, None] * heights[:, -1:], right=True)[:, 0]
