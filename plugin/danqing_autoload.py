"""The start-up hook: ModelScope, diffusers and transformers find Danqing without an import of it.

A guarded line in ``danqing_autoload.pth`` calls :func:`install` when the interpreter starts, unless
``DANQING_AUTOLOAD=0``; ``import danqing`` calls it always. Neither imports a host. Once a module of :data:`HOSTS` has
been executed, by whomever and also by ``importlib.reload``, the function beside it tells that host what Danqing offers.

This runs at the start of every interpreter of the environment, so it is standard library only (even ``typing`` would
cost milliseconds), and it never raises: where Danqing cannot register, the program sees a ``RuntimeWarning``.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

HOSTS = {
    "modelscope.pipelines.builder": ("danqing.hosts.modelscope", "register"),
    "diffusers.pipelines.pipeline_loading_utils": ("danqing.hosts.huggingface", "register_with_diffusers"),
    "transformers.pipelines": ("danqing.hosts.huggingface", "register_with_transformers"),
}


def install() -> None:
    """Watch for the modules of :data:`HOSTS`, and register at once with those that are already there. Idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in HOSTS:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        # A module in the middle of its import comes back through the finder when it is complete.
        if spec is not None and not getattr(spec, "_initializing", False):
            _register(name)


def _register(name: str) -> None:
    import importlib
    import warnings

    host, function = HOSTS[name]
    try:
        getattr(importlib.import_module(host), function)()
    except Exception as error:
        if getattr(error, "name", None) == "danqing" and isinstance(error, ModuleNotFoundError):
            return  # this file outlived its package
        try:
            warnings.warn(f"danqing cannot register with {name}: {error!r}", RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # -W error
            pass


class _Finder:
    """Finds the modules of :data:`HOSTS` where the other finders find them, and has their loader report."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name not in HOSTS:
            return None
        for finder in tuple(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """The loader it wraps, in every respect but one: after the module has been executed, Danqing registers."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "Any":
        if name == "_loader":  # a copy asks before the attribute is set
            raise AttributeError(name)
        return getattr(self._loader, name)

    def exec_module(self, module: "ModuleType") -> None:
        # The module keeps its true loader: inspect, pkgutil and importlib.resources look at it.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module.__name__)
