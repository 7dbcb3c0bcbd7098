"""From a prompt to a picture: text tokens, a grid of image codes that a GPT writes, a VQGAN that paints them.

Source: ``TextImageGeneration`` and its predictor in EasyNLP. Every prompt becomes exactly ``text_length`` tokens, cut
or filled up with [PAD], so prompts of any length go through the network together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from danqing_pack.errors import FormatError, RequestError
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from torch import Tensor, nn
from transformers import BertTokenizer

from danqing.images import to_pil, to_uint8
from danqing.networks.decoding import write_codes
from danqing.networks.painter_transformer import PainterTransformer
from danqing.networks.sampling import DEFAULT_TOP_K, Generators, Sampling, uniforms

OUTPUT_TYPES = ("pil", "np", "pt", "codes")
OnStepEnd = Callable[["PainterPipeline", int, int, dict[str, Tensor]], Mapping[str, Any] | None]

_tokenizing = threading.Lock()
"""A fast tokenizer refuses two threads at once."""


@dataclass
class PainterOutput(BaseOutput):
    """``images``: RGB images, float [N, H, W, 3] or [N, 3, H, W] in [0, 1], or int64 codes [N, image tokens]."""

    images: Any


class PainterPipeline(DiffusionPipeline):
    """Draws Chinese prompts with a painter: ``vqvae``, ``transformer`` and ``tokenizer``."""

    model_cpu_offload_seq = "transformer->vqvae"  # type: ignore[assignment]
    _callback_tensor_inputs = ["codes"]

    vqvae: VQModel
    transformer: PainterTransformer
    tokenizer: BertTokenizer

    def __init__(self, vqvae: VQModel, transformer: PainterTransformer, tokenizer: BertTokenizer) -> None:
        super().__init__()
        self.register_modules(  # type: ignore[no-untyped-call]
            vqvae=vqvae, transformer=transformer, tokenizer=tokenizer
        )
        if transformer is not None:
            _side(transformer.config.image_length)
        if transformer is not None and vqvae is not None:
            codes, written = vqvae.quantize.n_e, transformer.config.image_vocab_size
            if codes < written:
                raise FormatError(
                    f"The transformer writes {written} codes and the VQGAN knows {codes}; "
                    "they belong to different checkpoints."
                )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        do_sample: bool = True,
        top_k: int | None = DEFAULT_TOP_K,
        temperature: float = 1.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        batch_size: int = 16,
        image_codes: Tensor | None = None,
        words: Tensor | None = None,
        entity_embeddings: Tensor | None = None,
    ) -> PainterOutput | tuple[Any]:
        """Draw each prompt ``num_images_per_prompt`` times; images of one prompt follow each other.

        Args:
            generator: one for each image, so that an image is the same alone and beside others; a single one serves
                the images one after another. None draws from torch's global generator.
            do_sample: draw each code; False takes the most probable one.
            top_k: codes that take part in a draw, with ties; None: all. The default is no demand for so many codes.
            temperature: divides the scores; below 1 keeps to the probable.
            output_type: ``pil``, ``np`` or ``pt`` (floats in [0, 1]), or ``codes``.
            callback_on_step_end: called with this pipeline, the step, the place of the code just written in its image,
                and ``{"codes": int64 [images of the batch, place + 1]}``. What it returns is not used.
            batch_size: images drawn together at most; bounds memory, changes no image.
            image_codes: int64 [prompts or images, P], the first P codes of each image, from which it is continued.
            words, entity_embeddings: for painters with knowledge, see ``PainterTransformer``; words have one row for
                each prompt.

        Raises:
            RequestError: an argument that cannot be carried out.
        """
        prompts = _prompts(prompt)
        _at_least_one("num_images_per_prompt", num_images_per_prompt)
        _at_least_one("batch_size", batch_size)
        if output_type not in OUTPUT_TYPES:
            raise RequestError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}.")
        config, total = self.transformer.config, len(prompts) * num_images_per_prompt
        sampling = Sampling(do_sample, top_k, temperature)
        sampling.check(config.image_vocab_size)
        prefix = self._prefix(image_codes, len(prompts), num_images_per_prompt)
        steps = config.image_length - (prefix.shape[1] if prefix is not None else 0)
        numbers = uniforms(total, steps, generator) if do_sample else torch.empty(total, 0)
        text = self.encode_prompt(prompts).repeat_interleave(num_images_per_prompt, dim=0)
        _onload(self.transformer)
        entities = self._entities(words, entity_embeddings, len(prompts), num_images_per_prompt)

        batches = [slice(start, start + batch_size) for start in range(0, total, batch_size)]
        written = []
        with self.progress_bar(total=steps * len(batches)) as progress:

            def on_code(place: int, codes: Tensor) -> None:
                progress.update()
                if callback_on_step_end is not None:
                    callback_on_step_end(self, place + steps - config.image_length, place, {"codes": codes})

            for batch in batches:
                codes = write_codes(
                    self.transformer, text[batch], sampling, numbers[batch], on_code=on_code,
                    prefix=prefix[batch] if prefix is not None else None,
                    entities=entities[batch] if entities is not None else None,
                )  # fmt: skip
                written.append(codes)
        images = self._finish(torch.cat(written), output_type)
        self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]
        return PainterOutput(images=images) if return_dict else (images,)

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """int64 [prompts, text_length]: no [CLS], no [SEP], cut, filled up with [PAD], image vocabulary added."""
        config = self.transformer.config
        # Half a surrogate pair is dropped, as EasyNLP dropped every character of its category.
        texts = [prompt.encode("utf-8", "ignore").decode() for prompt in prompts]
        with _tokenizing:
            encoded = self.tokenizer(
                texts,
                add_special_tokens=False,
                truncation=True,
                max_length=config.text_length,
                padding="max_length",
                padding_side="right",
                return_tensors="pt",
            )
        ids: Tensor = encoded.input_ids.to(torch.int64) + config.image_vocab_size
        if int(ids.max()) >= config.vocab_size:
            raise FormatError(
                f"The vocabulary has more words than the transformer's {config.vocab_size - config.image_vocab_size} "
                "text tokens; the tokenizer belongs to another checkpoint."
            )
        return ids.to(self._execution_device)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> codes int64 [B, image tokens], row by row."""
        _onload(self.vqvae)
        latents = self.vqvae.encode(images.to(self._execution_device, self.vqvae.dtype)).latents
        codes: Tensor = self.vqvae.quantize(latents)[2][2]
        return codes.reshape(len(images), -1)

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, image tokens] -> float32 pixels [B, 3, H, W], about [-1, 1], not clamped."""
        _onload(self.vqvae)
        side = _side(codes.shape[1])
        codes = codes.to(self._execution_device)
        # On a CPU a batch is no faster; one by one, an image is bit for bit the same alone and beside others.
        together = 1 if codes.device.type == "cpu" else 8
        return torch.cat([self._decode(each, side) for each in codes.split(together)])

    def _decode(self, codes: Any, side: int) -> Tensor:
        quantize = self.vqvae.quantize
        latents = quantize.get_codebook_entry(codes.reshape(-1), (len(codes), side, side, quantize.vq_embed_dim))
        # Without the flag the decoder would look up the nearest codes again.
        pixels: Tensor = self.vqvae.decode(latents, force_not_quantize=True).sample
        return pixels.float()

    def _finish(self, codes: Tensor, output_type: str) -> Any:
        if output_type == "codes":
            return codes
        pixels = self.decode_codes(codes)
        if output_type == "pil":
            return to_pil(to_uint8(pixels))
        pixels = (pixels / 2 + 0.5).clamp(0, 1)
        return pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).cpu().numpy()

    def _prefix(self, codes: Tensor | None, prompts: int, per_prompt: int) -> Tensor | None:
        """Given codes as one row for each image."""
        if codes is None:
            return None
        config, total = self.transformer.config, prompts * per_prompt
        if codes.ndim != 2 or codes.shape[0] not in (prompts, total) or codes.shape[1] > config.image_length:
            raise RequestError(
                f"image_codes must have one row for each of {prompts} prompts or {total} images, of at most "
                f"{config.image_length} codes, not the shape {list(codes.shape)}."
            )
        if codes.is_floating_point() or codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < (
            config.image_vocab_size
        ):
            raise RequestError(f"image_codes must be whole numbers from 0 to {config.image_vocab_size - 1}.")
        codes = codes.to(torch.int64)
        return codes if codes.shape[0] == total else codes.repeat_interleave(per_prompt, dim=0)

    def _entities(self, words: Tensor | None, vectors: Tensor | None, prompts: int, per_prompt: int) -> Tensor | None:
        if words is None:
            return None
        if words.shape[0] != prompts:
            raise RequestError(f"words must have one row for each of {prompts} prompts, not {words.shape[0]}.")
        return self.transformer.embed_entities(words, vectors).repeat_interleave(per_prompt, dim=0)


def _prompts(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)):
        raise RequestError(f"A prompt must be text or a list of texts, not {type(prompt).__name__}: {prompt!r:.80}.")
    for each in prompts:
        if not isinstance(each, str):
            raise RequestError(f"A prompt must be text, not {type(each).__name__}: {each!r:.80}.")
    if not prompts:
        raise RequestError("There is no prompt to draw; give at least one.")
    return list(prompts)


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"{name} must be a whole number of at least 1, not {value!r}.")


def _side(image_length: int) -> int:
    side = isqrt(image_length)
    if side < 1 or side * side != image_length:
        raise FormatError(f"{image_length} image tokens make no square; check the checkpoint's text length.")
    return side


def _onload(module: nn.Module) -> None:
    """Bring a module to its device where accelerate moves it there for ``forward`` only."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)
