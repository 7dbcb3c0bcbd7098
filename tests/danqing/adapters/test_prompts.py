"""What a prompt loses is quoted in its own characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from danqing.adapters.prompts import cut_text, cut_warnings


@pytest.mark.parametrize("index", range(8))
def test_the_cut_is_where_the_ids_end(pipe: Any, expected: Callable[[str], Any], index: int) -> None:
    text = expected("text.json")
    prompt, limit = text["texts"][index], text["model_max_length"]
    full = text["untruncated_input_ids"][index]
    cut = cut_text(pipe.tokenizer, prompt)
    assert bool(cut) == (len(full) > limit)
    kept = prompt.removesuffix(cut)
    assert pipe.tokenizer(kept, padding="max_length")["input_ids"] == text["input_ids"][index]


def test_the_sentence(pipe: Any, expected: Callable[[str], Any]) -> None:
    prompt = expected("text.json")["texts"][4]
    (sentence,) = cut_warnings(pipe, ["短", prompt])
    assert "32 tokens" in sentence
    # 30 tokens are read: 29 characters and commas of the start, and one more.
    assert sentence.endswith(f"left out: “{prompt[30:70]}…”, {len(prompt) - 30} characters.")


def test_exactly_full_is_not_cut(pipe: Any) -> None:
    assert cut_text(pipe.tokenizer, "猫" * 30) == ""
    assert cut_text(pipe.tokenizer, "猫" * 31) == "猫"


def test_no_message_of_transformers_besides(pipe: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    cut_text(pipe.tokenizer, "猫" * 100)
    assert caplog.messages == []
