"""What transformers needs to run a painter folder: a configuration, a model and a pipeline.

    from transformers import pipeline
    draw = pipeline("text2image_generation", folder)
    draw("宽松T恤")                              # [{"gen_imgbase64": [PNG in base64]}], as in EasyNLP and ModelScope
    draw(["宽松T恤", "连衣裙"], num_images_per_prompt=2, seed=7, output_type="pil")  # [[image, image], [image, image]]

The folder's root ``config.json`` says ``danqing_painter``; its components stand in subfolders, where diffusers reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from danqing_pack.errors import RequestError
from torch.utils.data import Dataset
from transformers import Pipeline, PreTrainedConfig, PreTrainedModel

FORMS = ("base64", "pil")


class PainterFolderConfig(PreTrainedConfig):
    """The root ``config.json`` of a painter folder."""

    model_type = "danqing_painter"


class PainterForText2ImageGeneration(PreTrainedModel):
    """A painter pipeline in the dress of a model: transformers moves it, asks for its device and dtype, and saves it.

    ``pipeline`` is the diffusers pipeline; ``transformer`` and ``vqvae`` are its networks.
    """

    config_class = PainterFolderConfig
    base_model_prefix = ""

    def __init__(self, config: PainterFolderConfig, pipe: Any) -> None:
        super().__init__(config)
        self.pipeline = pipe
        self.transformer = pipe.transformer
        self.vqvae = pipe.vqvae

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any,
        config: PainterFolderConfig | None = None, dtype: Any = "auto", torch_dtype: Any = None, **hub: Any,
    ) -> PainterForText2ImageGeneration:
        """The painter of a folder or repository. ``dtype`` ``auto`` is fp32, until a pipeline finds itself on CUDA."""
        from diffusers import DiffusionPipeline

        if config is None:
            config = PainterFolderConfig.from_pretrained(pretrained_model_name_or_path, **_of_hub(hub))
        kind = dtype if torch_dtype is None else torch_dtype
        kind = torch.float32 if kind in ("auto", None) else kind
        kind = getattr(torch, kind) if isinstance(kind, str) else kind
        pipe = DiffusionPipeline.from_pretrained(pretrained_model_name_or_path, dtype=kind, **_of_hub(hub))
        model = cls(config, pipe)
        model.eval()  # type: ignore[no-untyped-call]
        return model

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], **arguments: Any
    ) -> None:
        """A painter folder again, from which transformers and diffusers both load."""
        self.pipeline.save_pretrained(save_directory, **arguments)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(save_directory)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """The logits of the transformer."""
        return self.transformer(*args, **keywords)


def _of_hub(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that say how a repository is fetched; trust_remote_code is none of ours."""
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
    return {name: arguments[name] for name in names if arguments.get(name) is not None}


class Text2ImageGenerationPipeline(Pipeline):
    """Prompts to EasyNLP's rows, one dict for each prompt; with ``output_type="pil"`` one list of images for each.

    Takes a string, a dict with ``text``, or a list of either. Keywords, here or at the call, are those of the painter
    pipeline, and ``seed`` and ``batch_size``.
    """

    _load_tokenizer: Any = False
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False

    def __init__(self, model: PainterForText2ImageGeneration, *args: Any, dtype: Any = None, **keywords: Any) -> None:
        from danqing.orders import SharedPipeline

        if not isinstance(model, PainterForText2ImageGeneration):
            raise RequestError(f"The model must be a painter folder, not {type(model).__name__}.")
        super().__init__(model, *args, dtype=dtype, **keywords)
        self._shared = SharedPipeline(model.pipeline, self._forward_params)
        if dtype == "auto" and self.device.type == "cuda":
            from danqing.devices import resolve_dtype

            kind: Any = resolve_dtype("auto", self.device)
            self.model.to(kind)

    def __call__(self, inputs: Any, *args: Any, **keywords: Any) -> Any:
        """A list with one row, or one list of images, for each prompt; for a data set or an iterator, an iterator."""
        keywords.setdefault("batch_size", self._batch_size)
        keywords.pop("num_workers", None)
        preparing, drawing, finishing = self._sanitize_parameters(**keywords)
        finishing = {**self._postprocess_params, **finishing}
        if isinstance(inputs, (Dataset, Iterator)):
            every: Any = inputs  # a map-style data set is iterable by its __getitem__
            drawn = self._shared.draw_each(every, **drawing)
            return (row for texts in drawn for row in self.postprocess([texts], **finishing))
        drawn = self.forward(self.preprocess(inputs, **preparing), **drawing)  # type: ignore[no-untyped-call]
        return self.postprocess(drawn, **finishing)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **arguments: Any) -> None:
        """Save the painter folder. The inherited method would add a copy of this file, and demand trust for it."""
        self.model.save_pretrained(save_directory, **arguments)

    def _sanitize_parameters(
        self, output_type: str | None = None, framework: None = None, **keywords: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # ModelScope's fall-back to transformers passes framework=None.
        if output_type is not None and output_type not in FORMS:
            raise RequestError(f"output_type must be one of {', '.join(FORMS)}, not {output_type!r}.")
        return {}, keywords, {} if output_type is None else {"output_type": output_type}

    def preprocess(self, input_: Any, **parameters: Any) -> Any:
        """Nothing: the painter takes text."""
        return input_

    def _forward(self, input_tensors: Any, **keywords: Any) -> Any:
        return self._shared.draw(input_tensors, **keywords)

    def postprocess(  # type: ignore[override]
        self, model_outputs: Any, output_type: str = "base64"
    ) -> list[Any]:
        """Elements of texts of images -> one entry for each text."""
        from danqing.pipelines.rows import image_row

        each = [images for texts in model_outputs for images in texts]
        return each if output_type == "pil" else [image_row(images) for images in each]
