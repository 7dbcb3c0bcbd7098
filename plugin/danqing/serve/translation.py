"""Text that is not Chinese, made Chinese by a model from a local folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from danqing_pack.errors import DanqingError, FormatError

from danqing.quiet import quiet_libraries

from .contract import Refusal, is_chinese

INTO_CHINESE = (">>cmn_Hans<<", ">>zho_Hans<<", ">>cmn<<", ">>zho<<", ">>zh<<")
"""What a Marian model of several languages wants in front of a text; the first that it knows is taken."""
LONGEST = 256
"""Tokens of a translation."""


class Translator:
    """A text2text model of transformers, Marian or any other, that writes Chinese.

    Raises ``FormatError`` where the folder holds none. Nothing is fetched, and no code of the folder is run.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        if not Path(folder).is_dir():
            raise FormatError(f"There is no folder {folder} for --translator; name a local text2text model.")
        try:
            with quiet_libraries():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a folder of somebody else's can break in any way
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise FormatError(f"{folder} cannot be opened as a text2text model: {reason[:300]}") from error
        self._model.to(device).eval()
        known = getattr(self._tokenizer, "supported_language_codes", None) or ()
        self._prefix = next((f"{code} " for code in INTO_CHINESE if code in known), "")
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        """``text`` in Chinese. Raises ``DanqingError`` where no Chinese comes out."""
        with self._lock, torch.no_grad():
            encoded = self._tokenizer(self._prefix + text, return_tensors="pt", truncation=True, max_length=LONGEST)
            encoded = encoded.to(self._model.device)
            written = self._model.generate(
                input_ids=encoded.input_ids, attention_mask=encoded.attention_mask, max_new_tokens=LONGEST)
            translated = str(self._tokenizer.decode(written[0], skip_special_tokens=True)).strip()
        if not translated or not is_chinese(translated):
            raise DanqingError("The translator wrote no Chinese for this text; send Chinese, or set skip_translation.")
        return translated


def chinese(text: str, skip: bool, translator: Translator | None) -> str:
    """The text to draw: as it is where it is Chinese or is to stay so, else translated.

    Raises ``Refusal`` with status 200, as the documented contract answers such requests.
    """
    if skip or is_chinese(text):
        return text
    if translator is None:
        raise Refusal(200, "The text is not Chinese and this service has no translator; send Chinese, or set "
                           "skip_translation to draw the text as it is.")
    try:
        return translator(text)
    except DanqingError as error:
        raise Refusal(200, str(error)) from error
