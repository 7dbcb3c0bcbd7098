"""A Marian folder, made here: one layer, a few words, and weights that write what they were told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing.serve.contract import Refusal
from danqing.serve.translation import Translator, chinese
from danqing_pack.errors import FormatError

ENGLISH = ["a cat sits by the window", "the cat and the dog", "mountains and water", "red flowers by the river"]
CHINESE = ["一只猫坐在窗前", "猫和狗", "山和水", "河边的红花"]


def marian(folder: Path, wrote: str, languages: tuple[str, ...] = ()) -> Path:
    """A folder as the converter of opus-mt models writes it. The decoder writes ``wrote``, whatever it reads."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel

    folder.mkdir()
    lines = ENGLISH + CHINESE
    for name in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(folder / name), vocab_size=90, hard_vocab_limit=False,
            character_coverage=1.0, bos_id=-1, minloglevel=2)
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm"))
    words = ["</s>", "<unk>", *languages]
    words += [piece for piece in (pieces.id_to_piece(i) for i in range(len(pieces))) if piece not in words] + ["<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "zh", "model_max_length": 512}))
    pad = len(words) - 1
    model = MarianMTModel(MarianConfig(
        vocab_size=len(words), d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=64, pad_token_id=pad,
        eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=None, num_beams=1))
    chosen = [words.index(piece) for piece in pieces.encode(wrote, out_type=str)] + [0]
    with torch.no_grad():  # the first word and then the end: enough to tell that it was asked
        model.final_logits_bias.zero_()
        for rank, token in enumerate(chosen):
            model.final_logits_bias[0, token] = 1000.0 - rank
    model.generation_config.update(
        max_length=None, num_beams=1, forced_eos_token_id=None, no_repeat_ngram_size=1, bad_words_ids=[[pad]])
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentencepiece")
    return marian(tmp_path_factory.mktemp("marian") / "en-zh", "山和水")


def test_a_marian_folder_translates(folder: Path) -> None:
    translator = Translator(folder)
    assert translator("mountains and water") == "山和水"
    assert chinese("mountains and water", False, translator) == "山和水"
    assert chinese("mountains and water", True, translator) == "mountains and water"
    assert chinese("猫 cat", False, translator) == "猫 cat"


def test_several_languages_are_told_which(tmp_path: Path) -> None:
    translator = Translator(marian(tmp_path / "many", "山和水", (">>cmn_Hans<<", ">>jpn<<")))
    assert translator._prefix == ">>cmn_Hans<< "
    encoded = translator._tokenizer(translator._prefix + "cat").input_ids
    assert encoded[0] == translator._tokenizer.convert_tokens_to_ids(">>cmn_Hans<<")


def test_a_translator_that_writes_no_chinese_is_an_answer(tmp_path: Path) -> None:
    translator = Translator(marian(tmp_path / "en-en", "cat"))
    with pytest.raises(Refusal, match="no Chinese") as raised:
        chinese("mountains", False, translator)
    assert raised.value.status == 200


@pytest.mark.parametrize("broken", ["missing", "empty", "no weights"])
def test_a_folder_that_is_none_is_said_in_a_sentence(tmp_path: Path, folder: Path, broken: str) -> None:
    place: Any = tmp_path / broken
    if broken != "missing":
        place.mkdir()
    if broken == "no weights":
        (place / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(FormatError, match=broken):
        Translator(place)
