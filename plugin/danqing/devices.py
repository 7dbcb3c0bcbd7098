"""Devices and dtypes by the words that users and hosts say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from danqing_pack.errors import RequestError

if TYPE_CHECKING:
    import torch

DTYPES = {
    "fp32": "float32", "float32": "float32", "fp16": "float16", "float16": "float16", "half": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16",
}


def require_words(device: str, dtype: str) -> None:
    """Refuse words for a device and a dtype that mean nothing anywhere, without torch. Raises RequestError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise _no_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise _no_dtype(dtype)


def _no_device(device: object) -> RequestError:
    return RequestError(f"There is no device {device}; name auto, cpu, cuda or cuda:N.")


def _no_dtype(dtype: object) -> RequestError:
    return RequestError(f"There is no dtype {dtype}; name fp32, fp16, bf16 or auto.")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` and ModelScope's ``gpu`` are cuda where there is one, else cpu; ``gpu:1`` is ``cuda:1``.

    Raises:
        RequestError: the word is unknown, or names a device that this machine has not.
    """
    import torch

    name = str(device)
    if name in ("auto", "gpu"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("gpu:"):
        name = f"cuda:{name.removeprefix('gpu:')}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        raise _no_device(device) from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise RequestError("This machine has no CUDA device; leave out --device, or name cpu.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"This machine has {torch.cuda.device_count()} CUDA devices, and no {name}.")
    return found


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """``auto`` is fp32 on cpu; on cuda bf16 where the device computes in it, else fp16."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None or dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if dtype not in DTYPES:
        raise _no_dtype(dtype)
    found: torch.dtype = getattr(torch, DTYPES[dtype])
    return found
