"""LoRA files: which form one is in, and today's names for the old one.

diffusers 0.15 and its training scripts saved attention processors, ``A.processor.to_q_lora.down.weight`` for every
attention ``A`` of the UNet, with no prefix and no alpha. Today's loaders read such a file, apply nothing and say
nothing. The change is one of names alone: scale 1 means the same on both sides, because a missing alpha is the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import pickles
from .errors import ConversionError, FormatError, listing
from .tensors import Tensor, open_safetensors

FILE_NAMES = (
    "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "adapter_model.safetensors", "pytorch_model.bin",
)
"""What a LoRA folder may hold, the first that is there counts; the last one is an accelerate checkpoint."""

PROCESSORS, PEFT, LINEAR, KOHYA = "attention processors", "PEFT", "linear layers", "kohya"
MARKS = (
    (PROCESSORS, ".processor."),
    (PEFT, ".lora_A."),
    (LINEAR, ".lora.down."),
    (LINEAR, ".lora_linear_layer."),
    (KOHYA, ".lora_down."),
)

LAYERS = (("to_q_lora", "to_q"), ("to_k_lora", "to_k"), ("to_v_lora", "to_v"), ("to_out_lora", "to_out.0"))
SIDES = (("down", "lora_A"), ("up", "lora_B"))
LEAVES = {
    f"{old_layer}.{old_side}.weight": f"{new_layer}.{new_side}.weight"
    for old_layer, new_layer in LAYERS
    for old_side, new_side in SIDES
}
OLD_LEAVES = {new: old for old, new in LEAVES.items()}


@dataclass(frozen=True)
class Lora:
    """One LoRA file as it lies on disk."""

    path: Path
    form: str
    tensors: Mapping[str, Tensor]

    def modern(self) -> dict[str, Tensor]:
        """The tensors under names that today's loaders take; only attention processors need new ones."""
        return to_modern(self.tensors, self.path) if self.form == PROCESSORS else dict(self.tensors)


def find_lora(path: Path) -> Path | None:
    """The LoRA file that ``path`` is or holds, judged by names alone; ``None`` where there is none."""
    if path.is_file():
        return path
    return next((path / name for name in FILE_NAMES if (path / name).is_file()), None)


def form_of(names: Mapping[str, object]) -> str | None:
    """Which form the keys of a state dict are in, or ``None`` for something that is no LoRA."""
    return next((form for form, mark in MARKS if any(mark in name for name in names)), None)


def open_lora(path: str | Path) -> Lora:
    """The LoRA in a file, or in a folder that holds one of ``FILE_NAMES``.

    Raises ``FormatError`` where there is no such file or its tensors are no LoRA, ``UnsafeError`` for a pickle that
    asks for more than tensors.
    """
    file = find_lora(Path(path))
    if file is None:
        raise FormatError(
            f"{path} is neither a LoRA file nor a folder with one; a folder holds one of {', '.join(FILE_NAMES)}."
        )
    tensors = open_safetensors(file) if file.suffix == ".safetensors" else pickles.load(file)
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise FormatError(f"{file} holds no flat dictionary of tensors, so it is no LoRA.")
    form = form_of(tensors)
    if form is None:
        raise FormatError(f"{file} holds {len(tensors)} tensors, none of them a LoRA's; give a LoRA file.")
    return Lora(file, form, tensors)


def to_modern(tensors: Mapping[str, Tensor], place: Path | str = "the LoRA") -> dict[str, Tensor]:
    """Attention processors under today's names: ``unet.A.to_q.lora_A.weight``; values stay as they are.

    Raises ``ConversionError`` with all keys in ``problems`` that are no attention processor's.
    """
    modern, strange = {}, []
    for key, tensor in tensors.items():
        attention, _, leaf = key.removeprefix("unet.").partition(".processor.")
        if leaf in LEAVES:
            modern[f"unet.{attention}.{LEAVES[leaf]}"] = tensor
        else:
            strange.append(key)
    if strange:
        raise ConversionError(
            f"{place} mixes attention processors with other keys: {listing(strange)}.", problems=tuple(strange)
        )
    return modern


def to_legacy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: attention processors of a UNet, without prefix, as ``save_attn_procs`` of 2023 wrote them.

    Raises ``ConversionError`` with all keys in ``problems`` that attention processors cannot hold.
    """
    legacy, strange = {}, []
    for key, tensor in tensors.items():
        attention, leaf = _split(key)
        if key.startswith("unet.") and leaf is not None:
            legacy[f"{attention.removeprefix('unet.')}.processor.{leaf}"] = tensor
        else:
            strange.append(key)
    if strange:
        raise ConversionError(
            f"Attention processors have no place for {listing(strange)}; only q, k, v and out of a UNet's attentions.",
            problems=tuple(strange),
        )
    return legacy


def _split(key: str) -> tuple[str, str | None]:
    """A modern key as its attention and the old name of the rest."""
    for new, old in OLD_LEAVES.items():
        if key.endswith(f".{new}"):
            return key.removesuffix(f".{new}"), old
    return key, None
