"""Every class of ours that a ``model_index.json`` may name, in one flat and lazy module.

A folder says ``["danqing.components", "PainterTransformer"]``. diffusers takes such a class only from a module that is
in ``sys.modules`` already, and finds out how to load it by comparing it with base classes that it looks up *in the same
module*; :data:`CLASSES` therefore names those bases beside our own. Importing this module imports neither torch nor
diffusers: a class is fetched when it is asked for.

A class listed here sets ``__module__ = "danqing.components"`` in its body, so that ``save_pretrained`` writes this name
and not the place of its source.
"""

from importlib import import_module
from typing import Any

CLASSES = {
    "LegacyPLMSScheduler": "danqing.schedulers.legacy_plms",
    "PainterTransformer": "danqing.networks.painter_transformer",
    "RRDBNet": "danqing.networks.rrdbnet",
    "WukongTextEncoder": "danqing.networks.wukong_text_encoder",
    "WukongTokenizer": "danqing.tokenizers.wukong",
    # the bases that diffusers asks for
    "DiffusionPipeline": "diffusers",
    "ModelMixin": "diffusers",
    "SchedulerMixin": "diffusers",
    "FeatureExtractionMixin": "transformers",
    "ImageProcessingMixin": "transformers",
    "PreTrainedModel": "transformers",
    "PreTrainedTokenizer": "transformers",
    "PreTrainedTokenizerFast": "transformers",
    "ProcessorMixin": "transformers",
}
"""Name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    if name not in CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(CLASSES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *CLASSES})
