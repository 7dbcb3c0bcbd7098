"""Named tensors in files: lazy values, the safetensors format, digests.

Nothing here reads more of a file than it must, nothing holds more than one tensor in memory, and nothing needs torch.
"""

from __future__ import annotations

from .digests import HashedFile, Progress, sha256_of
from .dtypes import BF16, DTYPES, DType
from .lazy_tensors import Tensor
from .safetensor_files import open_safetensors, write_safetensors
from .sources import Extent, Shape

__all__ = ["BF16", "DTYPES", "DType", "Extent", "HashedFile", "Progress", "Shape", "Tensor", "open_safetensors",
           "sha256_of", "write_safetensors"]
