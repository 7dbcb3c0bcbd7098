"""Prompts longer than the text encoder reads: what is cut, in the user's own characters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from danqing.quiet import quiet_libraries

QUOTED = 40
"""Characters of what is left out that a sentence shows."""


def cut_text(tokenizer: Any, prompt: str, limit: int | None = None, special: bool = True) -> str:
    """The end of ``prompt`` that is left out where ``limit`` tokens are read; empty where all of it fits.

    ``limit`` is the tokenizer's ``model_max_length`` unless it is given; ``special``: [CLS] and [SEP] count too.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(prompt, truncation=False, add_special_tokens=special, return_offsets_mapping=fast, verbose=False)
    ids, limit = encoded["input_ids"], tokenizer.model_max_length if limit is None else limit
    if len(ids) <= limit:
        return ""
    # [CLS] and [SEP] are kept, so the first token left out stands where [SEP] will be.
    first, last = limit - special, len(ids) - special
    if fast:
        return prompt[encoded["offset_mapping"][first][0]:].strip()
    return str(tokenizer.decode(ids[first:last])).strip()


def cut_warnings(pipe: Any, prompts: Iterable[str]) -> list[str]:
    """One sentence for each prompt that ``pipe`` cannot read to its end, quoting what it leaves out."""
    # A painter's tokens are all the prompt's own, and their number is the network's.
    painter = getattr(pipe, "transformer", None)
    limit = painter.config.text_length if painter is not None else pipe.tokenizer.model_max_length
    sentences = []
    for prompt in prompts:
        expanded = prompt
        if hasattr(pipe, "maybe_convert_prompt"):
            with quiet_libraries():
                expanded = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
        if cut := cut_text(pipe.tokenizer, expanded, limit, special=painter is None):
            quoted = f"“{cut}”" if len(cut) <= QUOTED else f"“{cut[:QUOTED]}…”, {len(cut)} characters"
            sentences.append(f"The prompt is longer than the {limit} tokens that this model reads; left out: {quoted}.")
    return sentences
