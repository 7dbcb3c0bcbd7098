"""Draws Chinese prompts with a painter. It needs diffusers and transformers only:

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("org/name", trust_remote_code=True)
    pipe("宽松T恤").images[0].save("picture.png")

A GPT (transformer/painter_transformer.py) writes image codes after the text, a VQGAN paints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch
from diffusers import VQModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch import Generator, Tensor


class PainterPipeline(DiffusionPipeline):
    """``vqvae``, ``transformer`` and ``tokenizer`` of a painter."""

    model_cpu_offload_seq = "transformer->vqvae"  # type: ignore[assignment, unused-ignore]

    vqvae: Any
    transformer: Any
    tokenizer: Any

    def __init__(self, vqvae: VQModel, transformer, tokenizer) -> None:  # type: ignore[no-untyped-def]
        # No types for the last two: their classes have other names in other libraries' versions.
        super().__init__()
        self.register_modules(  # type: ignore[no-untyped-call, unused-ignore]
            vqvae=vqvae, transformer=transformer, tokenizer=tokenizer)

    @torch.no_grad()
    def __call__(
        self, prompt: str | Sequence[str], num_images_per_prompt: int = 1,
        generator: Generator | Sequence[Generator] | None = None, do_sample: bool = True, top_k: int | None = 100,
        temperature: float = 1.0, output_type: str = "pil", return_dict: bool = True, batch_size: int = 16,
    ) -> Any:
        """Draw each prompt ``num_images_per_prompt`` times; images of one prompt follow each other.

        Args:
            generator: one for each image, or one that serves them one after another.
            do_sample: draw each code; False takes the most probable one.
            top_k: codes that take part in a draw; None: all.
            temperature: divides the scores; below 1 keeps to the probable.
            output_type: ``pil``, ``np`` (float [N, H, W, 3] in [0, 1]) or ``pt`` ([N, 3, H, W]).
            batch_size: images drawn together at most.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or not all(isinstance(each, str) for each in prompts):
            raise ValueError("prompt must be a text or a list of texts, at least one.")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be pil, np or pt, not {output_type!r}.")
        if temperature <= 0 or top_k is not None and top_k < 1:
            raise ValueError("temperature must be above 0 and top_k at least 1, or None.")
        text = self.encode_prompt(prompts).repeat_interleave(num_images_per_prompt, dim=0)
        numbers = self._numbers(len(text), generator) if do_sample else None
        written = [self.transformer.write_codes(
            text[start:start + batch_size], None if numbers is None else numbers[start:start + batch_size], top_k, temperature)
            for start in range(0, len(text), batch_size)]
        images = self._finish(self.decode_codes(torch.cat(written)), output_type)
        self.maybe_free_model_hooks()  # type: ignore[no-untyped-call, unused-ignore]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """int64 [prompts, text_length]: no [CLS], no [SEP], cut, filled up with [PAD], image vocabulary added."""
        config = self.transformer.config
        texts = [each.encode("utf-8", "ignore").decode() for each in prompts]
        encoded = self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=config.text_length, padding="max_length",
            padding_side="right", return_tensors="pt")
        ids: Tensor = encoded.input_ids.to(torch.int64) + config.image_vocab_size
        return ids.to(self._execution_device)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, image_length] -> float32 pixels [B, 3, H, W], about [-1, 1]."""
        side, width = isqrt(codes.shape[1]), self.vqvae.config["vq_embed_dim"] or self.vqvae.config["latent_channels"]
        pictures = []
        for each in codes:
            latents = self.vqvae.quantize.get_codebook_entry(each, (1, side, side, width))
            pictures.append(self.vqvae.decode(latents, force_not_quantize=True).sample.float())
        return torch.cat(pictures)

    def _numbers(self, count: int, generator: Generator | Sequence[Generator] | None) -> Tensor:
        """Numbers in [0, 1) for every code of every image; an image's own do not depend on those beside it."""
        each = [generator] * count if generator is None or isinstance(generator, Generator) else list(generator)
        if len(each) != count:
            raise ValueError(f"{len(each)} generators were given for {count} images; give one for each, or a single one.")
        steps = self.transformer.config.image_length
        rows = [torch.rand(steps, generator=one, device=one.device if one is not None else "cpu").cpu() for one in each]
        return torch.stack(rows).to(self._execution_device)

    def _finish(self, pixels: Tensor, output_type: str) -> Any:
        if output_type == "pil":
            values = ((pixels.permute(0, 2, 3, 1).cpu().numpy() + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
            return [Image.fromarray(each) for each in values]
        pixels = (pixels / 2 + 0.5).clamp(0, 1)
        return pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).cpu().numpy()
