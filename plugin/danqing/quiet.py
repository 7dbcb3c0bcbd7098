"""Messages of diffusers and transformers that a user of Danqing can do nothing about.

Each entry names one message and why it does not concern the reader. Everything else passes, warnings of these same
modules included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGES = (
    # A folder of 2023 holds .bin files; they are read with weights_only=True, so nothing in them can run.
    "no file named diffusion_pytorch_model.safetensors",
    "Defaulting to unsafe serialization",
    # The old name of CLIPImageProcessor, which is what gets loaded.
    "CLIPFeatureExtractor appears to have been deprecated",
    # Without torchvision the Pillow version of the same class is taken; its output is equal.
    "requires torchvision (not installed)",
    # The folder, or the caller, has no safety checker; the licence text is repeated at every from_pipe.
    "You have disabled the safety checker",
    # No module of these networks has to stay in float32; the list in the message is empty.
    "that should be kept in float32: []",
    # Said once already, with the characters as the user wrote them.
    "Token indices sequence length is longer",
    "The following part of your input was truncated",
    # Only one of UNet and text encoder carries a LoRA; the layers are counted by danqing itself.
    "No LoRA keys associated to",
)
WARNINGS = (
    # Several LoRAs on one model are what was asked for.
    "Already found a `peft_config` attribute",
)
SOURCES = (
    "diffusers.models.modeling_utils",
    "diffusers.models.model_loading_utils",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.pipelines.pipeline_loading_utils",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint",
    "diffusers.pipelines.controlnet.pipeline_controlnet",
    "diffusers.pipelines.controlnet.pipeline_controlnet_img2img",
    "diffusers.pipelines.controlnet.pipeline_controlnet_inpaint",
    "diffusers.utils.deprecation_utils",
    "diffusers.loaders.peft",
    "diffusers.loaders.lora_base",
    "transformers.tokenization_utils_base",
    "transformers.utils.import_utils",
)


def concerns_the_user(record: logging.LogRecord) -> bool:
    """Whether a record is none of ``MESSAGES``; a filter for a logger."""
    message = record.getMessage()
    return not any(known in message for known in MESSAGES)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop ``MESSAGES`` and ``WARNINGS`` while the block runs; loggers are left as they were found."""
    loggers = [logging.getLogger(name) for name in SOURCES]
    for logger in loggers:
        logger.addFilter(concerns_the_user)
    try:
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(concerns_the_user)
