"""What a run may be told, for each recipe; looked at before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danqing_pack.errors import RequestError

SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("no", "bf16", "fp16")
CHOICES = ("last", "best")
LAYOUTS = ("diffusers", "easynlp")
ENTITIES = 10
"""How many entities of a text count at most."""


@dataclass(frozen=True)
class LoopOptions:
    """How long, how fast and how often. `steps` counts optimiser steps; without it `epochs` decides."""

    steps: int | None = None
    epochs: float = 1.0
    batch_size: int = 8  # examples per process and forward pass
    accumulation: int = 1  # forward passes per optimiser step
    learning_rate: float = 1e-4
    warmup: int = 0  # steps
    schedule: str = "constant"
    final_rate: float = 0.0  # share of the peak at the end of a cosine or linear schedule
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of the gradient
    precision: str = "no"
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    keep: int = 2  # checkpoints
    choose: str = "last"  # the weights that the run leaves; "best": of the lowest validation
    validate_every: int = 500
    sample_every: int = 0  # 0: never
    tensorboard: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        _require(self.schedule in SCHEDULES, f"The schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}.")
        _require(self.precision in PRECISIONS, f"The precision {self.precision!r} is none of {', '.join(PRECISIONS)}.")
        _require(self.choose in CHOICES, f"The choice {self.choose!r} is none of {', '.join(CHOICES)}.")
        for name in ("batch_size", "accumulation", "log_every", "save_every", "keep", "validate_every"):
            value = getattr(self, name)
            _require(value >= 1, f"{name.replace('_', ' ')} must be at least 1, not {value}.")
        for name in ("warmup", "sample_every", "weight_decay"):
            value = getattr(self, name)
            _require(value >= 0, f"{name.replace('_', ' ')} cannot be {value}, below 0.")
        _require(0 <= self.final_rate <= 1, f"The final rate is a share from 0 to 1, not {self.final_rate}.")
        _require(all(0 <= beta < 1 for beta in self.betas), f"The betas lie from 0 to below 1, not {self.betas}.")
        _require(self.clip > 0, f"The largest norm of the gradient must be above 0, not {self.clip}.")
        _require(self.learning_rate > 0, f"The learning rate must be above 0, not {self.learning_rate}.")
        _require(self.steps is None or self.steps >= 1, f"steps must be at least 1, not {self.steps}.")
        _require(self.steps is not None or self.epochs > 0, f"epochs must be above 0, not {self.epochs}.")

    def require_validation(self, table: str | None) -> None:
        """RequestError where the best validation is asked for and there is none."""
        _require(table is not None or self.choose == "last", "--choose best needs --validation, a table to judge by.")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise RequestError(sentence)


def require_layout(layout: str) -> None:
    """RequestError unless training can write `layout`."""
    if layout not in LAYOUTS:
        raise RequestError(f"Training writes the layouts {' and '.join(LAYOUTS)}, not {layout!r}.")


@dataclass(frozen=True)
class PainterOptions:
    """`model`: a painter checkpoint to fine-tune, or a JSON file with the sizes of a new one (n_layer, n_head, n_embd;
    also n_unmasked, text_length, attn_pdrop, embd_pdrop, resid_pdrop), which needs `first_stage` and `vocab`."""

    data: str
    model: str
    output: str
    first_stage: str | None = None
    vocab: str | None = None
    validation: str | None = None
    output_layout: str = "diffusers"
    output_dtype: str = "fp32"
    prompts: tuple[str, ...] = ()
    random_crop: bool = False
    gradient_checkpointing: bool = False
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `open_examples` for both tables: schema, columns, encoding, header."""
    text_length: int | None = None
    """Text tokens of a checkpoint whose files leave it open."""
    entities: str | None = None
    """The vectors of the knowledge variant; the tables then name entities, see `danqing.train.entities`."""
    entity_count: int = ENTITIES
    loop: LoopOptions = field(default_factory=LoopOptions)

    def __post_init__(self) -> None:
        require_layout(self.output_layout)
        self.loop.require_validation(self.validation)
        if self.loop.sample_every and not self.prompts:
            raise RequestError("--sample-every needs --prompts, the texts to draw.")


@dataclass(frozen=True)
class LatentOptions:
    """`model`: the chinese-ldm to fine-tune, anything that `danqing.load` takes."""

    data: str
    model: str
    output: str
    validation: str | None = None
    output_layout: str = "diffusers"
    output_dtype: str = "fp32"
    random_crop: bool = False
    gradient_checkpointing: bool = False
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `open_examples` for both tables."""
    loop: LoopOptions = field(default_factory=LoopOptions)

    def __post_init__(self) -> None:
        require_layout(self.output_layout)
        self.loop.require_validation(self.validation)
        if self.loop.sample_every:
            raise RequestError("danqing train latent draws no samples: leave out --sample-every.")


@dataclass(frozen=True)
class VqganOptions:
    """`model`: a JSON file with a VQModel config, a folder with a VQModel, or a painter checkpoint to go on from."""

    data: str
    model: str
    output: str
    size: int | None = None  # pixels; default: the model's sample_size
    validation: str | None = None
    output_layout: str = "diffusers"
    codes: str = "learned"  # or "patches"
    encoder_every: int = 1  # with patches: steps between two of the encoder's
    continuous_steps: int = 0  # steps before there is a codebook; only from scratch
    squared_weight: float = 2.0
    commitment: float = 0.25
    codebook_rate: float = 1.0  # learning rate of the codebook, as a share of the rest's
    revive_every: int = 50  # steps between two looks for dead codes; 0: never
    revive_until: float = 0.8  # share of the run after which codes are left alone
    adversarial_weight: float = 0.0
    adversarial_start: int = 1000
    reading: Mapping[str, Any] = field(default_factory=dict)  # keywords of `open_examples` for both tables
    loop: LoopOptions = field(default_factory=LoopOptions)

    def __post_init__(self) -> None:
        require_layout(self.output_layout)
        self.loop.require_validation(self.validation)
        if self.adversarial_weight > 0 and self.loop.precision == "fp16":
            raise RequestError("--adversarial-weight cannot be trained in fp16, where both networks would share one scale; "
                               "take --precision bf16 or no.")
        if self.encoder_every < 1 or self.revive_every < 0 or self.continuous_steps < 0:
            raise RequestError("Steps cannot be counted so: --encoder-every is at least 1, --revive-every and "
                               "--continuous-steps are at least 0.")
