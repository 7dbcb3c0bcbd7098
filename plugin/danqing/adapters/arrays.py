"""Lazy tensors of the packaging side as torch tensors."""

from __future__ import annotations

import numpy as np
import torch

from danqing_pack.tensors import Tensor


def to_torch(tensor: Tensor) -> torch.Tensor:
    """A writable copy in memory, same dtype and shape; meant for small files, as it copies."""
    array = np.array(tensor.array())
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
