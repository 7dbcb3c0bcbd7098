"""Trains the GPT of a painter: cross-entropy of the image codes after the text, over a frozen first stage.

Source: the training of EasyNLP's `text2image_generation`; only image codes count in the loss. Codes are computed once
and cached in the output folder, unless pictures are cut at random.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from danqing_pack.errors import FormatError, RequestError
from danqing_pack.examples import Examples, open_examples
from danqing_pack.families.bert_tokenizers import tokenizer_component
from danqing_pack.layouts.layout import write_blob
from torch import Tensor, nn

from danqing.networks.painter_transformer import PainterConfig

from .data import Coder, as_input, cached_codes, encode, picture_of, token_ids
from .entities import COLUMNS, EntityVectors, NoSpans, Span, spans_of
from .loop import Loop, parameter_groups
from .options import PainterOptions as PainterOptions
from .patches import load_patch_codes
from .writing import write_painter

TEXT_LENGTH = 32
COUNTS = {"n_layer": 1, "n_head": 1, "n_embd": 1, "n_unmasked": 0, "text_length": 1}
DROPOUTS = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
"""What a new painter may be given, the counts with their least value."""


def open_painter(options: PainterOptions) -> Any:
    """The pipeline to train, in fp32 on the CPU: a checkpoint's, or a new one with fresh weights."""
    place = Path(options.model)
    if not (place.is_file() and place.suffix == ".json"):
        from danqing.loading import load

        pipe = load(options.model, device="cpu", dtype="fp32", text_length=options.text_length)
        if getattr(pipe, "danqing_family", None) != "painter":
            raise RequestError(f"{options.model} is no painter; name a painter checkpoint or a JSON file with its "
                               "sizes.")
        return pipe
    if options.first_stage is None or options.vocab is None:
        raise RequestError("A painter from scratch needs --first-stage (a trained VQGAN) and --vocab (vocab.txt).")
    return _new_painter(place, options.first_stage, Path(options.vocab))


def _new_painter(place: Path, first_stage: str, vocab: Path) -> Any:
    from danqing.building import build_component
    from danqing.networks.painter_transformer import PainterTransformer
    from danqing.pipelines.painter import PainterPipeline

    from .vqgan import open_vqgan

    sizes, tokens = _sizes(place), _tokens(vocab)
    vqvae, _ = open_vqgan(first_stage)
    length = sizes.pop("text_length", TEXT_LENGTH)
    side = int(vqvae.config["sample_size"]) // 2 ** (len(vqvae.config["block_out_channels"]) - 1)
    codes = int(vqvae.quantize.n_e)
    config = PainterConfig(vocab_size=codes + tokens, image_vocab_size=codes, text_length=length,
                           image_length=side * side, n_positions=length + side * side, **sizes)
    tokenizer = tokenizer_component(vocab.read_bytes(), length)
    with TemporaryDirectory(prefix="danqing-") as scratch:
        for name, blob in tokenizer.files.items():
            write_blob(Path(scratch), name, blob)
        reader = build_component(tokenizer, Path(scratch), torch.float32)
    return PainterPipeline(vqvae, PainterTransformer(config), reader)


def _sizes(place: Path) -> dict[str, Any]:
    """What a JSON file says of a new painter. Raises FormatError."""
    try:
        sizes = json.loads(place.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise FormatError(f"{place} is no JSON file with the sizes of a painter ({error}).", path=place) from None
    if not isinstance(sizes, dict):
        raise FormatError(f"{place} holds no JSON object with the sizes of a painter.", path=place)
    if unknown := sorted(sizes.keys() - COUNTS.keys() - set(DROPOUTS)):
        raise FormatError(f"{place} names {', '.join(unknown)}, which no painter has.", unknown=unknown)
    for name, value in sizes.items():
        if name in COUNTS and (type(value) is not int or value < COUNTS[name]):
            raise FormatError(f"{name} is a whole number of at least {COUNTS[name]}, not {value!r}.", name=name)
        if name in DROPOUTS and (type(value) not in (int, float) or not 0 <= value < 1):
            raise FormatError(f"{name} is a share from 0 to below 1, not {value!r}.", name=name)
    width, heads = (sizes.get(name, getattr(PainterConfig(), name)) for name in ("n_embd", "n_head"))
    if width % heads:
        raise FormatError(f"n_embd {width} is no multiple of n_head {heads}.", name="n_embd")
    return sizes


def _tokens(vocab: Path) -> int:
    try:
        return len(vocab.read_text("utf-8").splitlines())
    except (ValueError, OSError) as error:
        raise FormatError(f"{vocab} is no vocabulary, one token a line ({error}).", path=vocab) from None


def train_painter(options: PainterOptions) -> dict[str, float]:
    """Run the recipe; the last validation's (else training's) values."""
    examples = open_examples(options.data, **options.reading)
    vectors = EntityVectors(options.entities, options.entity_count) if options.entities else None
    loop = Loop(options.loop, Path(options.output), len(examples))
    loop.agree(options)
    loop.seed()
    pipe = open_painter(options)
    if vectors is not None:
        vectors.require_width(pipe.transformer.config.entity_dim, options.model)
    pipe.vqvae.requires_grad_(False).eval().to(loop.accelerator.device)
    if options.gradient_checkpointing:
        pipe.transformer.activation_checkpointing_enable()
    coder = load_patch_codes(Path(options.first_stage)) if options.first_stage else None
    source = Source(pipe, examples, loop, options.random_crop, coder, vectors)
    held = None
    if options.validation:
        held = Source(pipe, open_examples(options.validation, **options.reading), loop, coder=coder, vectors=vectors)
    optimizer = torch.optim.AdamW(parameter_groups(pipe.transformer, options.loop.weight_decay),
                                  lr=options.loop.learning_rate, betas=options.loop.betas)
    model, optimizer = loop.accelerator.prepare(pipe.transformer, optimizer)
    first, values = loop.restore(), dict[str, float]()
    model.train()
    for step in range(first, loop.total):
        loss = loop.step(model, optimizer, _losses(model, source, loop, step), step)
        done = step + 1
        if done % options.loop.log_every == 0 or done == loop.total:
            values = {"loss": loss}
            loop.log(done, values)
        if held is not None and (done % options.loop.validate_every == 0 or done == loop.total):
            values = {"loss": validate(model, held, loop)}
            loop.log(done, values, "validation")
            loop.consider(done, values["loss"], pipe.transformer)
        if options.loop.sample_every and options.prompts and done % options.loop.sample_every == 0 and loop.main:
            loop.show(done, "samples", sample_sheet(pipe, options.prompts, options.loop.seed))
        if done % options.loop.save_every == 0 or done == loop.total:
            loop.save(done)
    if loop.main:
        step = loop.chosen(pipe.transformer)
        write_painter(pipe, Path(options.output) / "model", options.output_layout, options.output_dtype,
                      {"recipe": "painter", "weights_of_step": step, **asdict(options)})
    loop.close()
    return values


class Source:
    """Token ids and image codes of a table's rows."""

    def __init__(
        self, pipe: Any, examples: Examples, loop: Loop, random_crop: bool = False, coder: Coder | None = None,
        vectors: EntityVectors | None = None,
    ) -> None:
        self.pipe, self.examples, self.loop, self.random_crop = pipe, examples, loop, random_crop
        self.vectors = vectors
        if vectors is not None:
            for row in range(len(examples)):    # before anything is computed
                self._spans(row)
        sizes = pipe.transformer.config
        self.text_length, self.offset = sizes.text_length, sizes.image_vocab_size
        self.size = int(sizes.image_length**0.5) * 2 ** (len(pipe.vqvae.config["block_out_channels"]) - 1)
        self.coder: Coder = coder or pipe.vqvae
        self.codes: Tensor | None = None
        if not random_crop:
            with loop.accelerator.main_process_first():  # the others find the cache
                self.codes = torch.from_numpy(cached_codes(examples, self.coder, self.size, loop.output))

    def batch(self, rows: Sequence[int], turn: int = 0) -> dict[str, Tensor]:
        """Keywords of the network: `input_ids` int64 [B, text + image - 1], `labels`, the codes [B, image] that it
        should write, and what it should know. `turn` chooses the cut of a random crop."""
        device = self.loop.accelerator.device
        texts = token_ids(self.pipe.tokenizer, [self.examples.text(row) for row in rows], self.text_length, self.offset)
        codes = self._cut(rows, turn) if self.codes is None else self.codes[list(rows)].long().to(device)
        found = {"input_ids": torch.cat([texts.to(device), codes[:, :-1]], dim=1), "labels": codes}
        if self.vectors is not None:
            known = self.vectors.knowledge((self._spans(row) for row in rows), self.text_length)
            found |= {name: value.to(device) for name, value in known.items()}
        return found

    def _spans(self, row: int) -> list[Span]:
        assert self.vectors is not None
        try:
            spans = spans_of({name: self.examples.cell(row, name) for name in COLUMNS})
            self.vectors.check(spans)
        except NoSpans as error:
            raise FormatError(f"In {self.examples.where(row)}, {error}.") from None
        return spans

    def _cut(self, rows: Sequence[int], turn: int) -> Tensor:
        pictures = []
        for place, row in enumerate(rows):
            chance = random.Random(f"{self.loop.options.seed} {turn} {place} {row}")
            pictures.append(picture_of(self.examples[row].image_bytes, self.size, self.examples.where(row), chance))
        return encode(self.coder, as_input(torch.stack(pictures)).to(self.loop.accelerator.device))


def _losses(model: nn.Module, source: Source, loop: Loop, step: int) -> Iterator[Tensor]:
    for rows in loop.micro_batches(step):
        batch = source.batch(rows, step)
        with loop.accelerator.autocast():
            yield model(**batch).loss


@torch.no_grad()
def validate(model: nn.Module, source: Source, loop: Loop) -> float:
    """Mean cross-entropy per image code over a table, in nats."""
    model.eval()
    total, rows = 0.0, len(source.examples)
    size = loop.options.batch_size
    for start in range(0, rows, size):
        part = range(start, min(start + size, rows))
        batch = source.batch(part)
        with loop.accelerator.autocast():
            total += float(model(**batch).loss) * len(part)
    model.train()
    return total / rows


def sample_sheet(pipe: Any, prompts: Sequence[str], seed: int) -> Tensor:
    """uint8 [3, H, W]: one picture of each prompt side by side, always from the same random numbers."""
    training = pipe.transformer.training
    pipe.transformer.eval()
    generators = [torch.Generator(pipe.device).manual_seed(seed + index) for index in range(len(prompts))]
    top_k = min(100, pipe.transformer.config.image_vocab_size)
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(list(prompts), generator=generators, top_k=top_k, output_type="pt").images
    pipe.transformer.train(training)
    joined: Tensor = torch.cat(list(pictures), dim=2)
    return (joined * 255).round().clamp(0, 255).to(torch.uint8)
