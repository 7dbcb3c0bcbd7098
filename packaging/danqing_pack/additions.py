"""What a pipeline may carry besides its own weights, as it lies on disk: a ControlNet, a LoRA, learned words.

None of them is a checkpoint: it belongs to no family and draws nothing alone. ``detect`` says what it is, and ``convert
--to diffusers`` writes it as today's libraries save it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import embeddings, loras, pickles
from .dtypes import is_floating
from .errors import ConversionError, DanqingError, RequestError, UnsafeError, listing
from .json_files import as_json, read_json
from .layouts.layout import Progress
from .staging import staged_folder
from .tensors import DTYPES, Tensor, open_safetensors, write_safetensors

CONTROLNET_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
STALE = ("_name_or_path", "torch_dtype")


@dataclass(frozen=True)
class Addition:
    """One of them: its kind, a sentence about it, and what ``--to diffusers`` writes."""

    path: Path
    kind: str
    """``controlnet``, ``lora`` or ``textual-inversion``."""
    detail: str
    tensors: Mapping[str, Tensor]
    file_name: str
    config: Mapping[str, Any] | None = None

    def describe(self) -> str:
        """One line: kind, detail, dtype, and the option that takes it."""
        option = {"controlnet": "--controlnet", "lora": "--lora", "textual-inversion": "--embedding"}[self.kind]
        return f"{self.kind}, {self.detail}, {'/'.join(sorted(self._dtypes()))}; for `danqing generate {option}`"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, for ``--json``."""
        return {"kind": self.kind, "detail": self.detail, "dtypes": dict(sorted(self._dtypes().items())),
                "parameters": sum(tensor.size for tensor in self.tensors.values()), "tensors": len(self.tensors)}

    def _dtypes(self) -> Counter[str]:
        return Counter(tensor.dtype.name for tensor in self.tensors.values())


def recognise(path: str | Path) -> Addition | None:
    """What lies at ``path``, or None where it is none of these (a checkpoint, a bundle, anything else).

    Raises ``UnsafeError`` for a pickle that asks for more than tensors.
    """
    place = Path(path)
    for look in (_controlnet, _lora, _embedding):
        try:
            found = look(place)
        except UnsafeError:
            raise
        except DanqingError:
            found = None
        if found is not None:
            return found
    return None


def _controlnet(path: Path) -> Addition | None:
    weights = next((path / name for name in CONTROLNET_WEIGHTS if (path / name).is_file()), None)
    if weights is None or not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    if config.get("_class_name") != "ControlNetModel":
        return None
    tensors = open_safetensors(weights) if weights.suffix == ".safetensors" else pickles.load(weights)
    channels = "-".join(map(str, config.get("block_out_channels", ())))
    kept = {name: value for name, value in config.items() if name not in STALE}
    detail = f"for a UNet of {channels} channels and a context {config.get('cross_attention_dim')} wide"
    return Addition(path, "controlnet", detail, tensors, CONTROLNET_WEIGHTS[0], kept)


def _lora(path: Path) -> Addition | None:
    file = loras.find_lora(path)
    if file is None or file.name == "pytorch_model.bin" and (file.parent / "config.json").exists():
        return None
    lora = loras.open_lora(file)
    ranks = sorted({min(tensor.shape[:2]) for tensor in lora.tensors.values() if tensor.ndim > 1})
    tensors = lora.modern()
    return Addition(path, "lora", f"{lora.form}, rank {'/'.join(map(str, ranks))}, {len(tensors)} tensors", tensors,
                    "pytorch_lora_weights.safetensors")


def _embedding(path: Path) -> Addition | None:
    found = embeddings.open_embeddings(path)
    words = ", ".join(f"{each.placeholder} ({each.vectors.shape[0]})" for each in found)
    return Addition(path, "textual-inversion", f"{words}, vectors {found[0].vectors.shape[1]} wide",
                    {each.placeholder: each.vectors for each in found}, "learned_embeds.safetensors")


def write(addition: Addition, target: str | Path, to: str, *, dtype: str | None = None, force: bool = False,
          dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
    """Write ``addition`` to the new folder ``target`` as today's libraries save it; sizes in bytes by name.

    Raises:
        RequestError: another layout than ``diffusers``, an unknown dtype, or the target exists.
        ConversionError: a LoRA of kohya, whose layers have no names without the model.
    """
    if to != "diffusers":
        raise RequestError(f"A {addition.kind} has no {to} layout, only diffusers; choose it with --to.")
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"There is no dtype {dtype}; choose one of {listing(sorted(DTYPES))}.")
    if addition.kind == "lora" and any(".lora_down." in name for name in addition.tensors):
        raise ConversionError(f"{addition.path} is a kohya LoRA, which today's libraries load as it is; leave it so.")
    tensors = dict(addition.tensors)
    if dtype is not None:
        kind = DTYPES[dtype]
        tensors = {name: each.cast(kind) if is_floating(each.dtype) else each for name, each in tensors.items()}
    config = None if addition.config is None else as_json(addition.config)
    if dry_run:
        planned = {addition.file_name: sum(tensor.nbytes for tensor in tensors.values())}
        return planned | ({} if config is None else {"config.json": len(config)})
    with staged_folder(target, force=force, sources=[addition.path], marks=[addition.file_name]) as folder:
        write_safetensors(folder / addition.file_name, tensors, {"format": "pt"}, progress=progress)
        if config is not None:
            (folder / "config.json").write_bytes(config)
        return {each.name: each.stat().st_size for each in sorted(folder.iterdir())}
