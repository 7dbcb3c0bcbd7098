"""Element types under the names that users, safetensors and torch give them; NumPy dtypes, little endian."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

DType = np.dtype[Any]

BF16: DType = np.dtype(ml_dtypes.bfloat16)
_F8_E4M3: DType = np.dtype(ml_dtypes.float8_e4m3fn)
_F8_E5M2: DType = np.dtype(ml_dtypes.float8_e5m2)

DTYPES: dict[str, DType] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "bf16": BF16}
"""The floating types that a user may ask for."""

SAFETENSORS: dict[str, DType] = {
    "BOOL": np.dtype("?"), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "F8_E5M2": _F8_E5M2, "F8_E4M3": _F8_E4M3,
    "I16": np.dtype("<i2"), "U16": np.dtype("<u2"), "F16": np.dtype("<f2"), "BF16": BF16,
    "I32": np.dtype("<i4"), "U32": np.dtype("<u4"), "F32": np.dtype("<f4"), "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
}
"""By their name in a safetensors header, in the order in which that format ranks them: narrow before wide."""

STORAGES: dict[str, DType] = {
    "BoolStorage": np.dtype("?"), "ByteStorage": np.dtype("u1"), "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"), "IntStorage": np.dtype("<i4"), "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"), "BFloat16Storage": BF16, "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"), "ComplexFloatStorage": np.dtype("<c8"), "ComplexDoubleStorage": np.dtype("<c16"),
}
"""By torch's typed storage class, which names the type of a tensor in a pickle."""

TORCH: dict[str, DType] = {
    "bool": np.dtype("?"), "uint8": np.dtype("u1"), "int8": np.dtype("i1"), "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"), "int64": np.dtype("<i8"), "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"), "float16": np.dtype("<f2"), "bfloat16": BF16, "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"), "complex64": np.dtype("<c8"), "complex128": np.dtype("<c16"),
    "float8_e4m3fn": _F8_E4M3, "float8_e5m2": _F8_E5M2,
}
"""By torch's own name, which a pickle gives where no typed storage class exists."""

_FLOATING = frozenset({np.dtype("<f2"), np.dtype("<f4"), np.dtype("<f8"), BF16, _F8_E4M3, _F8_E5M2})


def is_floating(dtype: DType) -> bool:
    """Whether values of this type are real numbers with a fraction; NumPy counts bfloat16 among none of its kinds."""
    return dtype in _FLOATING
