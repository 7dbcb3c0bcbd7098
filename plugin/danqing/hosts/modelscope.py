"""Registration with ModelScope: one pipeline class for each task, both of type ``danqing``.

    from modelscope.pipelines import pipeline
    pipeline("text-to-image-synthesis", folder)({"text": "宽松T恤"})    # {"output_imgs": [uint8 H x W x 3 BGR, ...]}
    pipeline("text2image_generation", folder)(["宽松T恤"])              # [{"gen_imgbase64": [PNG in base64, ...]}]

A folder is ours when its ``configuration.json`` says so; without that file ``pipeline_name="danqing"`` does. One class
cannot serve both tasks: the registry writes the task's name into the class.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from danqing_pack.errors import RequestError
from modelscope.msdatasets import MsDataset
from modelscope.outputs.outputs import TASK_OUTPUTS, OutputKeys, OutputTypes, OutputTypeSchema
from modelscope.pipeline_inputs import TASK_INPUTS, InputType
from modelscope.pipelines.base import Pipeline
from modelscope.utils.constant import Fields, MultiModalTasks, Tasks
from modelscope.utils.import_utils import LazyImportModule
from PIL import Image

from danqing.hosts.modelscope_takeover import take_over

if TYPE_CHECKING:
    from danqing.orders import Drawn

TYPE = "danqing"
ROWS = "text2image_generation"
ROW_KEY = "gen_imgbase64"
NOT_OURS = {"auto_collate", "preprocessor", "trust_remote_code", "use_safetensors"}
"""What ``modelscope.pipelines.pipeline`` may add for pipelines of another make."""
LOADING = {"text_length", "weights", "scheduler", "lora", "embeddings", "controlnet"}
"""Keywords that :func:`danqing.load` takes besides those named."""


class DanqingPipeline(Pipeline):  # type: ignore[misc]
    """A diffusers pipeline behind ModelScope's interface; it stands in the attribute ``pipeline``.

    ``Pipeline.__init__`` is not called: it would look for a preprocessor and build a model of ModelScope's own.

    Args:
        model: any folder or bundle that :func:`danqing.load` takes, or the id of a repository on ModelScope.
        device: ModelScope's words; ``gpu`` is CUDA where there is one, else the CPU.
        dtype: as for :func:`danqing.load`; ``torch_dtype`` is an alias.
        model_revision: the revision of a repository.
        batch_size: prompts drawn together, unless a call says otherwise.
        keywords: those of :func:`danqing.load` in ``LOADING``; the rest are defaults for the keywords of every call.
    """

    truncate = False
    """Whether values become bytes by truncation, also where a stock pipeline would round."""

    def __init__(
        self,
        model: str | os.PathLike[str] | list[str],
        device: str = "gpu",
        dtype: Any = "auto",
        torch_dtype: Any = None,
        model_revision: str | None = None,
        batch_size: int | None = None,
        **keywords: Any,
    ) -> None:
        import danqing
        from danqing.orders import SharedPipeline

        self.model = _place(model)
        self.models, self.has_multiple_models = [self.model], False
        pipe: Any = danqing.load(self.model, device=device, dtype=dtype, torch_dtype=torch_dtype, revision=model_revision,
                            **{name: keywords[name] for name in LOADING & keywords.keys()})
        defaults = {name: value for name, value in keywords.items() if name not in NOT_OURS | LOADING}
        pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
        self._shared = SharedPipeline(pipe, defaults, truncate=self.truncate)
        self._batch_size = batch_size
        self.device_name, self.device = device, self.pipeline.device
        self.framework = self.preprocessor = self.cfg = None

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline."""
        return self._shared.pipe

    def __call__(self, input: Any, *args: Any, **keywords: Any) -> Any:
        """Draw a string, a dict with ``text``, a list of either, or (lazily) a data set of them.

        Keywords are those of the diffusers pipeline, and ``seed``, ``batch_size`` and ``upscale``.
        """
        if isinstance(input, (MsDataset, Iterator)):
            drawn = self._shared.draw_each(input, **{"batch_size": self._batch_size, **keywords})
            return (self._of_one(self.postprocess([texts])) for texts in drawn)
        preparing, drawing, finishing = self._sanitize_parameters(**keywords)
        results = self.postprocess(self.forward(self.preprocess(input, **preparing), **drawing), **finishing)
        return results if isinstance(input, (list, tuple)) else self._of_one(results)

    def _sanitize_parameters(self, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, keywords, {}

    def preprocess(self, inputs: Any, **parameters: Any) -> Any:
        """Nothing: the diffusers pipeline takes text."""
        return inputs

    def forward(self, inputs: Any, **keywords: Any) -> Drawn:
        """The images of every text of every element."""
        return self._shared.draw(inputs, **{"batch_size": self._batch_size, **keywords})

    def _of_one(self, results: list[dict[str, Any]]) -> Any:
        """What a call returns for an input that was no list."""
        raise NotImplementedError


class TextToImageSynthesisPipeline(DanqingPipeline):
    """Task ``text-to-image-synthesis``: ``{"output_imgs": [uint8 H x W x 3 BGR, ...]}``, a list of them for a list."""

    def postprocess(self, inputs: Drawn, **parameters: Any) -> list[dict[str, Any]]:
        """One dict for each element."""
        return [{OutputKeys.OUTPUT_IMGS: [_bgr(image) for images in texts for image in images]} for texts in inputs]

    def _of_one(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        return results[0]


class Text2ImageGenerationPipeline(DanqingPipeline):
    """Task ``text2image_generation``: EasyNLP's rows, a list with ``{"gen_imgbase64": [str, ...]}`` for each text."""

    truncate = True

    def postprocess(self, inputs: Drawn, **parameters: Any) -> list[dict[str, Any]]:
        """One row for each text."""
        from danqing.pipelines.rows import image_row

        return [image_row(images) for texts in inputs for images in texts]

    def _of_one(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return results


def _bgr(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [H, W, 3] in OpenCV's order."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _place(model: Any) -> str:
    """What :func:`danqing.load` calls it: a path as it is, ModelScope's ``owner/name`` with its hub's prefix."""
    if isinstance(model, (list, tuple)) and len(model) == 1:
        model = model[0]
    if not isinstance(model, (str, os.PathLike)):
        raise RequestError(f"The model must be a path or the id of a repository, not {model!r:.80}.")
    place = os.fspath(model)
    is_repository = place.count("/") == 1 and ":" not in place and not os.path.exists(place)
    return f"ms:{place}" if is_repository and place[0] not in "./~" else place


CLASSES = {Tasks.text_to_image_synthesis: TextToImageSynthesisPipeline, ROWS: Text2ImageGenerationPipeline}


def register() -> None:
    """Register both classes, and tell ModelScope what it keeps elsewhere about a task and a class."""
    from modelscope.pipelines.builder import PIPELINES  # here, since a reload makes a new one

    for task, pipeline_class in CLASSES.items():
        PIPELINES.register_module(task, module_name=TYPE, module_cls=pipeline_class, force=True)
    _describe_task()
    _list_classes()
    take_over(TYPE)


def _describe_task() -> None:
    """Make the task of EasyNLP one of ModelScope's, without touching an entry that is there."""
    TASK_INPUTS.setdefault(ROWS, {"text": InputType.TEXT})
    TASK_OUTPUTS.setdefault(ROWS, [ROW_KEY])
    OutputTypes.setdefault(ROW_KEY, list[str])
    OutputTypeSchema.setdefault(ROW_KEY, {"type": "array", "items": {"type": "string"}})
    if not hasattr(Tasks, ROWS):
        setattr(MultiModalTasks, ROWS, ROWS)
        if Tasks.reverse_field_index:
            Tasks.reverse_field_index.setdefault(ROWS, Fields.multi_modal)


def _list_classes() -> None:
    """Enter the classes into the index of ModelScope's own modules; it warns at each class that is not there."""
    index = LazyImportModule.get_ast_index()["index"]
    for task in CLASSES:
        index[("PIPELINES", task, TYPE)] = {"filepath": __file__, "imports": [], "module": __name__}
