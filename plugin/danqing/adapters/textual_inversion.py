"""Learned words: new tokens in the tokenizer, their vectors in the text encoder.

diffusers' own loader adds tokens that the Bert normalizer takes apart again (``<古风画>`` becomes ``< 古 风 画 >``), so
that of several vectors only the first is ever used. Tokens added with ``normalized=False`` stay whole, and the
setting survives saving.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from danqing_pack.embeddings import Embedding, open_embeddings
from danqing_pack.errors import ConversionError, RequestError
from torch import nn

from danqing.building import torch_tensor


def add_embeddings(pipe: Any, paths: Iterable[str | Path]) -> tuple[Embedding, ...]:
    """Teach ``pipe`` the placeholders of these files; a prompt then names them as they stand, ``一只<小奶猫>``.

    Placeholders of n vectors take n tokens in the prompt. Raises ``FormatError`` for a file without embeddings,
    ``ConversionError`` for vectors of another width, ``RequestError`` for a word that the tokenizer already has;
    nothing is added then.
    """
    from tokenizers import AddedToken

    embeddings = tuple(embedding for path in paths for embedding in open_embeddings(path))
    if not embeddings:
        return ()
    _check(embeddings, pipe.tokenizer, pipe.text_encoder)
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    pipe.tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    ids = torch.tensor(pipe.tokenizer.convert_tokens_to_ids(tokens))
    _put_rows(pipe.text_encoder, ids, torch.cat([torch_tensor(embedding.vectors) for embedding in embeddings]))
    return embeddings


def _check(embeddings: tuple[Embedding, ...], tokenizer: Any, text_encoder: Any) -> None:
    width = text_encoder.get_input_embeddings().weight.shape[1]
    known = set(tokenizer.get_vocab())
    for embedding in embeddings:
        if embedding.vectors.shape[1] != width:
            raise ConversionError(
                f"The vectors of {embedding.placeholder} in {embedding.path} are {embedding.vectors.shape[1]} wide, "
                f"the text encoder's are {width}; the embedding was made for another model."
            )
        taken = next((token for token in embedding.tokens if token in known), None)
        if taken is not None:
            raise RequestError(
                f"The tokenizer already has the word {taken} of {embedding.path}; load each embedding once, "
                "and give a new one a name of its own.", token=taken,
            )
        known.update(embedding.tokens)


def _put_rows(text_encoder: Any, ids: torch.Tensor, rows: torch.Tensor) -> None:
    """Lengthen the embedding table to the largest id and fill in these rows.

    ``resize_token_embeddings`` would draw the new rows first, and so use up global random numbers.
    """
    table = text_encoder.get_input_embeddings()
    old = table.weight.detach()
    new = torch.cat([old, old.new_zeros(max(0, int(ids.max()) + 1 - len(old)), old.shape[1])])
    new[ids.to(old.device)] = rows.to(old)
    longer = nn.Embedding.from_pretrained(new, freeze=not table.weight.requires_grad, padding_idx=table.padding_idx)
    text_encoder.set_input_embeddings(longer)
    text_encoder.config.vocab_size = len(new)
