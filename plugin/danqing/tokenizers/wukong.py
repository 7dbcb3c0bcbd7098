"""The tokenizer of chinese-ldm: BERT's first release, where it differs from ``BertTokenizer``.

* ``[MASK]`` and its kin are text like any other when a user writes them.
* A word may have 200 characters before it becomes [UNK], not 100.
* Only control and format characters vanish; private-use and unassigned ones stay, and become [UNK].
* Lines of the vocabulary lose all white space around them; a word that stands twice has its later number.

Words are split here, in Python's own Unicode tables as the original did; word pieces, special tokens, truncation and
padding stay with the library.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from tokenizers.models import WordPiece
from transformers import BertTokenizer

IDEOGRAPHS = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
LONGEST_WORD = 200


def load_vocabulary(path: str | os.PathLike[str]) -> dict[str, int]:
    """Word piece -> id, one per line of ``path``.

    Lines that the original lost, because the same word comes again, get a name that no text can have: the ids stay
    without gaps, so that a token added later has an id of its own.
    """
    with open(path, encoding="utf-8") as lines:
        words = [line.strip() for line in lines]
    numbers = {word: index for index, word in enumerate(words)}
    return {word if numbers[word] == index else f" {index}": index for index, word in enumerate(words)}


def split_words(text: str) -> list[str]:
    """``text`` as the original's basic tokenizer split it: lower case, no accents, one word per ideograph and mark."""
    spaced = IDEOGRAPHS.sub(lambda match: f" {match[0]} ", "".join(_cleaned(text)))
    return [word for token in spaced.split() for word in _split_marks(_plain(token))]


def _cleaned(text: str) -> Iterator[str]:
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            yield " "
        elif category == "Cs":
            yield "\ue000"  # half a surrogate pair cannot enter the library; a private character is as unknown
        elif char not in "\0\ufffd" and category not in ("Cc", "Cf"):
            yield char


def _plain(token: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", token.lower()) if unicodedata.category(char) != "Mn")


def _split_marks(token: str) -> list[str]:
    return "".join(f" {char} " if _is_mark(char) else char for char in token).split()


def _is_mark(char: str) -> bool:
    """Punctuation, and every other ASCII character that is neither letter, digit nor space."""
    code = ord(char)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(char).startswith("P")


class WukongTokenizer(BertTokenizer):
    """``BertTokenizer`` with the original's words and a text length that no caller changes.

    Whoever asks for truncation or for padding to a length gets ``model_max_length``, whatever length he names: the
    stock pipelines name the number of context vectors for negative prompts, which has nothing to do with text here.
    """

    __module__ = "danqing.components"

    def __init__(self, vocab: str | Path | dict[str, int] | None = None, **kwargs: Any) -> None:
        if isinstance(vocab, (str, Path)):
            vocab = load_vocabulary(vocab)
        super().__init__(vocab=vocab, **kwargs)
        library: Any = self._tokenizer
        library.model = WordPiece(
            library.get_vocab(with_added_tokens=False), unk_token=str(self.unk_token),
            max_input_chars_per_word=LONGEST_WORD,
        )
        library.normalizer = None
        library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def set_truncation_and_padding(
        self, padding_strategy: Any, truncation_strategy: Any, max_length: Any, *args: Any, **kwargs: Any
    ) -> None:
        """The library's own, with the text length of the checkpoint for whatever length was asked for."""
        if max_length is not None and self.model_max_length < 1 << 30:
            max_length = self.model_max_length
        super().set_truncation_and_padding(padding_strategy, truncation_strategy, max_length, *args, **kwargs)

    def _save_pretrained(self, save_directory: Any, file_names: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        """Writes vocab.txt as well, which the library no longer does and EasyNLP needs."""
        prefix = kwargs.get("filename_prefix") or (args[1] if len(args) > 1 else None)
        path = Path(save_directory) / f"{f'{prefix}-' if prefix else ''}vocab.txt"
        library: Any = self._tokenizer
        words = sorted(library.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        path.write_text("".join(f"{'' if word.startswith(' ') else word}\n" for word, _ in words), encoding="utf-8")
        return super()._save_pretrained(save_directory, (*file_names, str(path)), *args, **kwargs)

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        return super()._encode_plus(self._words(text), self._words(text_pair), *args, **kwargs)

    def _words(self, text: Any) -> Any:
        """Every string of ``text`` as its words between spaces; tokens that were added later stay as they are."""
        if isinstance(text, (list, tuple)):
            return type(text)(self._words(each) for each in text)
        if not isinstance(text, str):
            return text
        added = [token for token, number in self.added_tokens_encoder.items() if number >= self.vocab_size]
        if not added:
            return " ".join(split_words(text))
        parts = re.split(f"({'|'.join(re.escape(token) for token in sorted(added, key=len, reverse=True))})", text)
        return " ".join(part if part in added else " ".join(split_words(part)) for part in parts)
