"""The painter's transformer: one GPT over text tokens and image codes.

Source: the minGPT of EasyNLP's ``text2image_generation``. ``transformers.GPT2Model`` computes exactly what it does
(pre-norm blocks, learned positions, exact-erf GELU); what GPT-2 has no word for stands here: a head over the image
codes alone, the prefix whose tokens all see each other, and the entities of the knowledge variant.

A sequence is ``[text tokens | image codes]``. Image code ``i`` has the id ``i``, text token ``i`` has the id
``i + image_vocab_size``. The output at position ``text_length - 1 + j`` predicts image code ``j``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from danqing_pack.errors import FormatError, RequestError
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, GPT2Config, GPT2Model, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


@strict
class PainterConfig(PreTrainedConfig):
    """Sizes of a painter; the defaults are those of ``pai-painter-base-zh``.

    ``vocab_size`` counts image codes and text tokens together. The first ``n_unmasked`` positions see each other in
    both directions. ``entity_dim`` is the width of an entity vector, 0 for a painter without knowledge.
    """

    model_type = "danqing_painter_transformer"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 37512
    image_vocab_size: int = 16384
    text_length: int = 32
    image_length: int = 256
    n_positions: int = 288
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_unmasked: int = 0
    activation_function: str = "gelu"
    layer_norm_epsilon: float = 1e-5
    attn_pdrop: float | int = 0.0
    embd_pdrop: float | int = 0.0
    resid_pdrop: float | int = 0.0
    entity_dim: int = 0
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False

    def gpt(self) -> GPT2Config:
        """The body in GPT-2's own words."""
        body = GPT2Config(
            vocab_size=self.vocab_size,
            n_positions=self.n_positions,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_head=self.n_head,
            activation_function=self.activation_function,
            layer_norm_epsilon=self.layer_norm_epsilon,
            attn_pdrop=self.attn_pdrop,
            embd_pdrop=self.embd_pdrop,
            resid_pdrop=self.resid_pdrop,
            initializer_range=self.initializer_range,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
        body._attn_implementation = self._attn_implementation
        return body


class PainterTransformer(PreTrainedModel):
    """``gpt`` (a ``GPT2Model``), ``head`` over the image codes, ``ent_emb`` where the painter knows entities."""

    __module__ = "danqing.components"
    config_class = PainterConfig
    if TYPE_CHECKING:  # transformers would look the name up in the module that stands above
        config: PainterConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPT2Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: PainterConfig) -> None:
        super().__init__(config)
        if config.text_length + config.image_length - 1 > config.n_positions:
            raise FormatError(
                f"{config.text_length} text and {config.image_length} image tokens do not fit into "
                f"{config.n_positions} positions; the checkpoint's config.json names the wrong lengths."
            )
        self.gpt = GPT2Model(config.gpt())
        self.head = nn.Linear(config.n_embd, config.image_vocab_size, bias=False)
        self.ent_emb = nn.Linear(config.entity_dim, config.n_embd) if config.entity_dim else None
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.gpt.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.gpt.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor,
        words: Tensor | None = None,
        entity_embeddings: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Scores of the next image code at each position.

        Args:
            input_ids: int64 [B, T], text ids already offset by the image vocabulary.
            words: int64 [B, E, text_length], rows of ``entity_embeddings`` under each text token; knowledge variant.
            entity_embeddings: float [N, entity_dim].
            labels: int64 [B, N], the image codes; their cross-entropy becomes ``loss``. -100 is left out.
            past_key_values: from an earlier call with ``use_cache=True``; ``input_ids`` are then the new tokens.

        Returns:
            ``logits`` float [B, T, image_vocab_size], and ``loss`` and ``past_key_values`` where asked for.

        Raises:
            RequestError: entities for a painter without them, or a cache that the prefix makes wrong.
        """
        if words is not None:
            if past_key_values is not None or use_cache:
                raise RequestError("Entities are read in one pass over the whole sequence; call without a cache.")
            embedded = self.embed_entities(words, entity_embeddings)
            hidden, cache = self.gpt.ln_f(with_entities(self._states(input_ids), embedded)), None
        else:
            body = self.gpt(
                input_ids=input_ids,
                attention_mask=self._mask(input_ids, past_key_values),
                past_key_values=past_key_values,
                use_cache=use_cache,
            )
            hidden, cache = body.last_hidden_state, body.past_key_values
        logits = self.head(hidden)
        loss = None if labels is None else self._loss(logits, labels)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache if use_cache else None)
        return output if return_dict else output.to_tuple()

    def embed_entities(self, words: Tensor, entity_embeddings: Tensor | None) -> Tensor:
        """The entities under each text token, [B, E, text_length, n_embd]. The bias makes an empty place non-zero."""
        if self.ent_emb is None:
            raise RequestError("This painter knows no entities (it has no ent_emb); call it without words.")
        if entity_embeddings is None:
            raise RequestError("words name rows of entity_embeddings; give both.")
        expected = self.config.text_length
        if words.ndim != 3 or words.shape[-1] != expected:
            raise RequestError(f"words must have the shape [batch, entities, {expected}], not {list(words.shape)}.")
        weight = self.ent_emb.weight
        embedded: Tensor = self.ent_emb(F.embedding(words.to(weight.device), entity_embeddings.to(weight)))
        return embedded

    def _states(self, input_ids: Tensor) -> Tensor:
        """The output of the last block before the final norm, which ``GPT2Model`` does not hand out."""
        gpt, length = self.gpt, input_ids.shape[1]
        places = torch.arange(length, device=input_ids.device)
        hidden: Tensor = gpt.drop(gpt.wte(input_ids) + gpt.wpe(places))
        mask = prefix_mask(length, self.config.n_unmasked, hidden)
        for block in gpt.h:
            hidden = block(hidden, None, mask)
        return hidden

    def _mask(self, input_ids: Tensor, past: Cache | None) -> Tensor | None:
        n_unmasked = self.config.n_unmasked
        if n_unmasked == 0:
            return None
        seen = past.get_seq_length() if past is not None else 0
        if 0 < seen < n_unmasked:
            raise RequestError(
                f"The first {n_unmasked} positions see each other, so a cache of {seen} is not final; call without one."
            )
        return prefix_mask(seen + input_ids.shape[1], n_unmasked, self.gpt.wte.weight)[:, :, seen:]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        first = self.config.text_length - 1
        aligned = logits[:, first : first + labels.shape[1]]
        return F.cross_entropy(aligned.reshape(-1, aligned.shape[-1]).float(), labels.reshape(-1))


def visible(length: int, n_unmasked: int, device: torch.device | None = None) -> Tensor:
    """Which position (row) sees which (column): bool [length, length], causal but for the prefix."""
    place = torch.arange(length, device=device)
    prefix = place < n_unmasked
    return (place[:, None] >= place) | (prefix[:, None] & prefix)


def prefix_mask(length: int, n_unmasked: int, like: Tensor) -> Tensor:
    """``visible`` as what attention adds to its scores: [1, 1, length, length] in the type of ``like``."""
    hidden = ~visible(length, n_unmasked, like.device)
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden, torch.finfo(like.dtype).min)[None, None]


def with_entities(states: Tensor, embedded: Tensor) -> Tensor:
    """Text states [B, T, C] with the attended entities [B, E, text_length, C] added to the first text_length of them.

    Each entity is weighed by its inner product with the whole text, unscaled; an exact zero counts as absent.
    """
    length = embedded.shape[2]
    if states.shape[1] < length:
        raise RequestError(f"Entities belong to all {length} text tokens, but only {states.shape[1]} were given.")
    text, rest = states[:, :length], states[:, length:]
    with torch.autocast(states.device.type, enabled=False):     # a sum over the whole text, which fp16 could not hold
        weights = torch.einsum("btc,betc->be", text.float(), embedded.float())
    weights = weights.masked_fill(weights == 0, -1e30).softmax(dim=-1).to(embedded.dtype)
    return torch.cat((text + torch.einsum("be,betc->btc", weights, embedded), rest), dim=1)
