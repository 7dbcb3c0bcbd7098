"""Registration with diffusers and transformers.

With diffusers, ``DiffusionPipeline.from_pretrained(folder)`` finds the pipelines and components of ours that a
``model_index.json`` names. With transformers, ``pipeline("text2image_generation", folder)`` runs a painter folder.

Both functions run while their host is still being imported, and may run again after a reload.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from danqing import pipelines

TASK = "text2image_generation"


def register_with_diffusers() -> None:
    """Make our pipelines attributes of ``diffusers``, fetched on first use, and our components known to its loader."""
    import_module("danqing.components")  # its being in sys.modules is what the loader asks for
    # A repository is refused before anything is loaded, unless its index names modules that stand in this table.
    sys.modules["diffusers.pipelines.pipeline_loading_utils"].LOADABLE_CLASSES.setdefault("danqing.components", {})
    diffusers = sys.modules["diffusers"]
    if not getattr(type(diffusers), "offers_danqing", False):
        diffusers.__class__ = _offering(type(diffusers))


def _offering(module_class: type[ModuleType]) -> type[ModuleType]:
    """A class of modules that looks for our pipelines before it does what ``module_class`` does.

    Our classes cannot be set as attributes now: they derive from ``DiffusionPipeline``, which does not exist yet.
    """

    class Offering(module_class):  # type: ignore[misc, valid-type]
        offers_danqing = True

        def __getattr__(self, name: str) -> Any:
            if name in pipelines.CLASSES:
                found = getattr(pipelines, name)
                setattr(self, name, found)
                return found
            inherited = getattr(super(), "__getattr__", None)  # absent with DIFFUSERS_SLOW_IMPORT=1
            if inherited is None:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            return inherited(name)

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *pipelines.CLASSES})

    return Offering


def register_with_transformers() -> None:
    """Register the configuration and model of painter folders, and the task that runs them."""
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.modeling_auto import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from danqing.hosts import transformers_task as ours

    AutoConfig.register(ours.PainterFolderConfig.model_type, ours.PainterFolderConfig, exist_ok=True)
    AutoModel.register(ours.PainterFolderConfig, ours.PainterForText2ImageGeneration, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=ours.Text2ImageGenerationPipeline, pt_model=AutoModel, type="text"
        )
