"""Prompts longer than the text encoder reads: what is cut, in the user's own characters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from danqing.quiet import quiet_libraries


def cut_text(tokenizer: Any, prompt: str) -> str:
    """The end of ``prompt`` that ``tokenizer`` leaves out at its ``model_max_length``; empty where all of it fits."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(prompt, truncation=False, return_offsets_mapping=fast, verbose=False)
    ids, limit = encoded["input_ids"], tokenizer.model_max_length
    if len(ids) <= limit:
        return ""
    # [CLS] and [SEP] are kept, so the first token left out stands where [SEP] will be.
    first, last = limit - 1, len(ids) - 1
    if fast:
        return prompt[encoded["offset_mapping"][first][0]:].strip()
    return str(tokenizer.decode(ids[first:last])).strip()


def cut_warnings(pipe: Any, prompts: Iterable[str]) -> list[str]:
    """One sentence for each prompt that ``pipe`` cannot read to its end, quoting what it leaves out."""
    limit = pipe.tokenizer.model_max_length
    sentences = []
    for prompt in prompts:
        expanded = prompt
        if hasattr(pipe, "maybe_convert_prompt"):
            with quiet_libraries():
                expanded = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
        if cut := cut_text(pipe.tokenizer, expanded):
            sentences.append(f"The prompt is longer than the {limit} tokens that this model reads; left out: “{cut}”.")
    return sentences
