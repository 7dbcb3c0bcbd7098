"""danqing_pack: files in, files out. Detect, convert, check, pack and unpack checkpoints; no torch is imported.

    import danqing_pack
    danqing_pack.detect(path).describe()
    danqing_pack.convert(path, out, to="diffusers")
    danqing_pack.check(out)
    danqing_pack.pack(out, "model.tar.gz"); danqing_pack.unpack("model.tar.gz", folder)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checking import check
    from .conversion import convert
    from .detection import detect
    from .eas import pack, unpack
    from .errors import DanqingError

__all__ = ["DanqingError", "check", "convert", "detect", "pack", "unpack"]

_HOMES = {"check": "checking", "convert": "conversion", "detect": "detection", "pack": "eas", "unpack": "eas",
          "DanqingError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
