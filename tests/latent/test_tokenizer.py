"""Tokens of chinese-ldm: the original's, and the text length of the checkpoint whatever a caller asks for."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from danqing.components import WukongTokenizer
from transformers import BertTokenizer

PADDED = {"padding": "max_length", "truncation": True}


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> WukongTokenizer:
    return WukongTokenizer.from_pretrained(folder / "tokenizer")


def test_the_reference(tokenizer: WukongTokenizer, case: Path) -> None:
    for row in json.loads((case / "expected" / "tokens.json").read_text()):
        assert tokenizer.tokenize(row["text"]) == row["tokens"]
        assert tokenizer(row["text"], max_length=32, **PADDED).input_ids == row["input_ids"]


def test_a_list_is_its_texts(tokenizer: WukongTokenizer, case: Path) -> None:
    rows = json.loads((case / "expected" / "tokens.json").read_text())
    ids = tokenizer([row["text"] for row in rows], max_length=32, return_tensors="pt", **PADDED).input_ids
    assert ids.tolist() == [row["input_ids"] for row in rows]


@pytest.mark.parametrize("word", ["[MASK]", "[SEP]", "[PAD]", "[CLS]", "[UNK]"])
def test_special_tokens_that_a_user_writes_are_text(word: str, tokenizer: WukongTokenizer) -> None:
    ids = tokenizer(word).input_ids
    assert ids[0] == 101 and ids[-1] == 102 and not {0, 101, 102, 103} & set(ids[1:-1])
    assert ids[1:-1] == tokenizer(f"[ {word[1:-1]} ]").input_ids[1:-1]


@pytest.mark.parametrize(("length", "known"), [(100, True), (101, True), (200, True), (201, False)])
def test_long_words(length: int, known: bool, tokenizer: WukongTokenizer, folder: Path) -> None:
    assert (tokenizer.tokenize("x" * length) != ["[UNK]"]) == known
    stock = BertTokenizer.from_pretrained(folder / "tokenizer").tokenize("x" * length)
    assert (stock != ["[UNK]"]) == (length <= 100)


def test_private_and_unassigned_characters_are_unknown_words(tokenizer: WukongTokenizer) -> None:
    for char in ("\ue000", "\u0378", "\U000f0000"):
        assert tokenizer.tokenize(f"猫 {char} 狗") == ["猫", "[UNK]", "狗"]
    for char in ("\u200b", "\x07", "\ufffd", "\0", "\xad"):
        assert tokenizer.tokenize(f"猫{char}狗") == ["猫", "狗"]
    assert tokenizer.tokenize("un\u200baffable") == ["un", "##aff", "##able"]


def test_half_a_character_is_an_unknown_word(tokenizer: WukongTokenizer) -> None:
    assert tokenizer.tokenize("猫 \ud83d 狗") == ["猫", "[UNK]", "狗"]


def test_accents_case_and_ideographs(tokenizer: WukongTokenizer) -> None:
    assert tokenizer.tokenize("CAFÉ") == tokenizer.tokenize("cafe")
    assert tokenizer.tokenize("猫a狗") == ["猫", "a", "狗"]
    assert tokenizer.tokenize("a\U0002b820b") == ["a", "[UNK]", "b"]
    assert tokenizer.tokenize("a\u3000b\u2028c\td") == ["a", "b", "c", "d"]


def test_lines_of_the_vocabulary_are_stripped(tmp_path: Path) -> None:
    words = ["[PAD]", "猫 ", "\u3000狗", "牛", "", "", "猫", "马"] + [f"w{i}" for i in range(92)]
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), encoding="utf-8")
    tokenizer = WukongTokenizer.from_pretrained(tmp_path)
    assert tokenizer("猫 狗 牛 马").input_ids == [101, 6, 2, 3, 7, 102]
    tokenizer.add_tokens("<新词>")
    assert tokenizer.convert_tokens_to_ids("<新词>") == 104
    tokenizer.save_pretrained(tmp_path / "again")
    again = WukongTokenizer.from_pretrained(tmp_path / "again")
    assert again("猫 狗 牛 马<新词>").input_ids == [101, 6, 2, 3, 7, 104, 102]


@pytest.mark.parametrize("asked", [1, 2, 31, 32, 77])
def test_the_text_length_is_the_checkpoints(asked: int, tokenizer: WukongTokenizer) -> None:
    for text in ("猫", "丑陋，畸形，" * 20):
        ids = tokenizer([text, ""], max_length=asked, return_tensors="pt", **PADDED).input_ids
        assert ids.shape == (2, 32) and bool((ids == 102).sum(1).eq(1).all())
        assert torch.equal(ids, tokenizer([text, ""], max_length=32, return_tensors="pt", **PADDED).input_ids)


def test_without_padding_nothing_is_cut(tokenizer: WukongTokenizer) -> None:
    assert tokenizer("猫" * 50, padding="longest", return_tensors="pt").input_ids.shape == (1, 52)


def test_learned_words_stay_whole(tokenizer: WukongTokenizer) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<小奶猫>", "<小奶猫>_1"])
    assert tokenizer.tokenize("一只<小奶猫>坐<小奶猫>_1 [MASK]")[:5] == ["一", "只", "<小奶猫>", "[UNK]", "<小奶猫>_1"]
    assert pickle.loads(pickle.dumps(tokenizer)).tokenize("<小奶猫>") == ["<小奶猫>"]


def test_it_saves_and_loads(tokenizer: WukongTokenizer, tmp_path: Path, folder: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = WukongTokenizer.from_pretrained(tmp_path)
    text = "龘靐 unaffable café 猫 [MASK] " + "x" * 150
    assert again(text, max_length=1, **PADDED).input_ids == tokenizer(text, max_length=32, **PADDED).input_ids
    assert (tmp_path / "vocab.txt").read_bytes() == (folder / "tokenizer" / "vocab.txt").read_bytes()
    assert type(again).__module__ == "danqing.components" and isinstance(again, BertTokenizer)
