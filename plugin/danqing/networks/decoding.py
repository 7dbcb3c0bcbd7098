"""Writing image codes with a painter, one after another, with a key-value cache.

The weights are those of the network, the way through them is its own: queries, keys and values in one product, keys and
values in one block of memory of fixed size, the head on the last position only, and weights packed where the processor
reads them faster so. ``decoder_of`` keeps what was packed as long as the weights stay the same ones.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from danqing_pack.errors import RequestError
from torch import Tensor, nn
from torch.nn import functional as F

from .graph_step import GraphPool
from .packed_linear import Linear, is_plain, linear
from .painter_transformer import PainterTransformer, visible, with_entities
from .sampling import Sampling

OnCode = Callable[[int, Tensor], None]
"""Called with the index of a code in the image and all codes so far, int64 [B, index + 1]."""


Step = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Layer:
    """One block of the network."""

    ln_1: nn.Module
    qkv: Linear
    attended: Linear
    ln_2: nn.Module
    widened: Linear
    narrowed: Linear

    @classmethod
    def of(cls, block: Any) -> Layer:
        """A ``GPT2Block`` taken apart."""
        return cls(
            ln_1=block.ln_1,
            qkv=linear(block.attn.c_attn),
            attended=linear(block.attn.c_proj),
            ln_2=block.ln_2,
            widened=linear(block.mlp.c_fc, gelu=True),
            narrowed=linear(block.mlp.c_proj),
        )


class Decoder:
    """A painter ready to write. A run's state is lent out or made for it, so threads may share a decoder."""

    def __init__(self, network: PainterTransformer) -> None:
        self.config, weight = network.config, network.gpt.wte.weight
        self.device = None if weight.is_meta else weight.device
        self.tokens, self.places, self.norm = network.gpt.wte, network.gpt.wpe, network.gpt.ln_f
        self.layers = tuple(Layer.of(block) for block in network.gpt.h)
        self.head = linear(network.head)
        recordable = weight.is_cuda and all(is_plain(module) for module in _linears(network))
        self.graphs = GraphPool() if recordable else None

    @contextmanager
    def run(self, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Step]]:
        """The room of one run and its step: (token of each sequence [B], its place) -> scores [B, V]."""
        recorded = self.graphs.borrow(self, batch) if self.graphs is not None else None
        if self.graphs is None or recorded is None:
            room = self.room(batch, device)
            yield room, lambda input_ids, place: self.step(input_ids, place, room)
            return
        try:
            yield recorded.room, recorded
        finally:
            self.graphs.give_back(recorded)

    def room(self, batch: int, device: torch.device | None) -> Tensor:
        """Uninitialised keys and values of whole sequences: [layers, 2, batch, heads, tokens, width of a head]."""
        config = self.config
        length = config.text_length + config.image_length
        shape = (config.n_layer, 2, batch, config.n_head, length, config.n_embd // config.n_head)
        return torch.empty(shape, dtype=self.tokens.weight.dtype, device=device)

    def read(self, input_ids: Tensor, room: Tensor) -> Tensor:
        """States [B, T, C] of a sequence from its start, before the final norm; its keys and values go to ``room``."""
        length, n_unmasked = input_ids.shape[1], self.config.n_unmasked
        mask = visible(length, n_unmasked, input_ids.device) if n_unmasked else None
        states = self.tokens(input_ids) + self.places(torch.arange(length, device=input_ids.device))

        def attend(query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
            room[layer, 0, :, :, :length], room[layer, 1, :, :, :length] = key, value
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)

        return self._through(states, attend)

    def step(self, input_ids: Tensor, place: int, room: Tensor) -> Tensor:
        """Scores [B, V] after one more token each, [B], at ``place``; ``room`` holds everything before it."""

        def attend(query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
            keys, values = room[layer, 0, :, :, : place + 1], room[layer, 1, :, :, : place + 1]
            keys[:, :, place:], values[:, :, place:] = key, value
            return F.scaled_dot_product_attention(query, keys, values)

        here = torch.full((1,), place, device=input_ids.device)
        return self.scores(self._through(self.tokens(input_ids[:, None]) + self.places(here), attend))

    def fixed_step(self, input_ids: Tensor, place: Tensor, room: Tensor) -> Tensor:
        """``step`` with the place in a tensor [1] and all shapes constant, as a CUDA graph wants it."""
        mask = (torch.arange(room.shape[4], device=room.device) <= place)[None, None, None]

        def attend(query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
            keys = room[layer, 0].index_copy_(2, place, key)
            values = room[layer, 1].index_copy_(2, place, value)
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

        return self.scores(self._through(self.tokens(input_ids[:, None]) + self.places(place), attend))

    def scores(self, states: Tensor) -> Tensor:
        """Scores [B, V] of the image code that follows the last of states [B, T, C]."""
        return self.head(self.norm(states[:, -1]))

    def _through(self, states: Tensor, attend: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> Tensor:
        batch, length, width = states.shape
        shape = (batch, length, 3, self.config.n_head, width // self.config.n_head)
        for index, layer in enumerate(self.layers):
            query, key, value = layer.qkv(layer.ln_1(states)).view(shape).permute(2, 0, 3, 1, 4)
            seen = attend(query, key, value, index).transpose(1, 2).reshape(batch, length, width)
            states = states + layer.attended(seen)
            states = states + layer.narrowed(layer.widened(layer.ln_2(states)))
        return states


def _linears(network: PainterTransformer) -> Iterator[nn.Module]:
    blocks: Any = network.gpt.h
    yield network.head
    for block in blocks:
        yield from (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)


@torch.no_grad()
def write_codes(
    network: PainterTransformer,
    text_ids: Tensor,
    sampling: Sampling,
    uniforms: Tensor,
    *,
    prefix: Tensor | None = None,
    entities: Tensor | None = None,
    on_code: OnCode | None = None,
) -> Tensor:
    """Image codes for each text, int64 [B, image_length].

    Args:
        text_ids: int64 [B, text_length], offset by the image vocabulary, on the device to compute on.
        uniforms: the numbers that decide the draws, [B, image_length - P]; unused when nothing is sampled.
        prefix: image codes to continue from, int64 [B, P].
        entities: what ``network.embed_entities`` returned; they touch the first image code only.

    Where the prefix mask reaches beyond a sequence, a new token changes the states before it: such a sequence is read
    anew, until it has outgrown the mask.
    """
    config, (batch, text_length) = network.config, text_ids.shape
    if text_length != config.text_length:
        raise RequestError(f"This painter reads {config.text_length} text tokens, not {text_length}.")
    decoder = decoder_of(network)
    device = decoder.device or text_ids.device  # offloaded weights have no device of their own
    known = text_ids.to(device)
    if prefix is not None:
        known = torch.cat((known, prefix.to(device)), dim=1)
    sequence = torch.empty(batch, text_length + config.image_length, dtype=torch.int64, device=device)
    sequence[:, : known.shape[1]] = known
    uniforms = uniforms.to(device)
    with torch.autocast(device.type, enabled=False), decoder.run(batch, device) as (room, step):
        for number, place in enumerate(range(known.shape[1], sequence.shape[1])):
            if number == 0 or place <= config.n_unmasked:
                states = decoder.read(sequence[:, :place], room)
                if entities is not None and place == text_length:
                    states = with_entities(states, entities)
                scores = decoder.scores(states)
            else:
                scores = step(sequence[:, place - 1], place - 1)
            sequence[:, place] = sampling.choose(scores, uniforms[:, number] if sampling.do_sample else uniforms)
            if on_code is not None:
                on_code(place - text_length, sequence[:, text_length : place + 1])
    return sequence[:, text_length:]


_Known = tuple[tuple[object, ...], Decoder]
_decoders: weakref.WeakKeyDictionary[PainterTransformer, _Known] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def decoder_of(network: PainterTransformer) -> Decoder:
    """The decoder of these very weights; made anew when a layer or weight was replaced, moved or changed in place."""
    state = (
        *((id(module), is_plain(module)) for module in network.modules()),
        *((id(each), each.data_ptr(), _version(each), each.dtype, each.device) for each in network.parameters()),
    )
    with _lock:
        known = _decoders.get(network)
        if known is None or known[0] != state:
            known = _decoders[network] = (state, Decoder(network))
        return known[1]


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; one made in inference mode does not say."""
    return -1 if tensor.is_inference() else tensor._version
