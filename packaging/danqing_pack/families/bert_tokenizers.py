"""Tokenizer folders with a BERT vocabulary, as today's and 2023's transformers read them alike."""

from __future__ import annotations

from typing import Any

from ..errors import FormatError
from ..json_files import as_json, parse_json
from ..sides import Blob, Component, content

SPECIAL_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}


def tokenizer_component(
    vocabulary: Blob, text_length: int, library: str = "transformers", class_name: str = "BertTokenizer"
) -> Component:
    """A tokenizer that gives at most ``text_length`` tokens."""
    config: dict[str, Any] = {
        **SPECIAL_TOKENS, "tokenizer_class": class_name, "model_max_length": text_length, "do_lower_case": True,
        "tokenize_chinese_chars": True, "strip_accents": None,
    }
    if class_name == "BertTokenizer":
        config["do_basic_tokenize"] = True
    return Component(library, class_name, files={
        "vocab.txt": vocabulary, "tokenizer_config.json": as_json(config), "special_tokens_map.json": as_json(SPECIAL_TOKENS),
    })


def vocabulary_of(part: Component) -> Blob:
    """``vocab.txt`` of a tokenizer, or the same made from ``tokenizer.json``, where transformers saved only that.

    Raises:
        FormatError: it has neither.
    """
    if "vocab.txt" in part.files:
        return part.files["vocab.txt"]
    if "tokenizer.json" not in part.files:
        raise FormatError("The folder has neither tokenizer/vocab.txt nor tokenizer/tokenizer.json, without which no "
                          "prompt can be read; copy vocab.txt from its source.", missing="tokenizer/vocab.txt")
    words = parse_json(content(part.files["tokenizer.json"]), "tokenizer/tokenizer.json").get("model", {}).get("vocab", {})
    return "".join(f"{word}\n" for word in sorted(words, key=words.__getitem__)).encode()
