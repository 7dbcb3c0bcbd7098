"""What both recipes share: the order of the data, the learning rate, checkpoints with exact resume, and the journal."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from danqing_pack.errors import RequestError
from danqing_pack.staging import staged_folder
from safetensors import SafetensorError
from torch import Tensor, nn

from .best import BestWeights
from .journal import Journal, writing_into
from .options import LoopOptions as LoopOptions
from .record import read_record, require_same, settings_of, write_record


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def rate(options: LoopOptions, step: int, total: int) -> float:
    """The learning rate of a step, as a share of the peak."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, total - options.warmup)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}[options.schedule]
    return options.final_rate + (1.0 - options.final_rate) * shape if options.schedule != "constant" else 1.0


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay as in minGPT: on weights of two and more axes, but not on embeddings, norms and biases."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [value for value in model.parameters() if value.requires_grad]
    decayed = [value for value in trained if value.ndim >= 2 and id(value) not in embeddings]
    chosen = {id(value) for value in decayed}
    rest = [value for value in trained if id(value) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


class Order:
    """The endless sequence of rows, each epoch a permutation that the seed fixes. It has no state to resume."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def rows_at(self, start: int, count: int) -> list[int]:
        """Rows number `start` to `start + count - 1` of the sequence."""
        return [self._row(place) for place in range(start, start + count)]

    def _row(self, place: int) -> int:
        epoch, offset = divmod(place, self.rows)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.rows, generator=generator)
        return int(self._permutation[offset])


class Loop:
    """One training run in the folder `output`: `checkpoints/step-N`, `log.jsonl`, and what the recipe writes."""

    def __init__(self, options: LoopOptions, output: Path, rows: int) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        self.options, self.output = options, output
        self.best = BestWeights(output / "best")
        AcceleratorState._reset_state()     # it would refuse another precision than an earlier run's in this process
        partly = DistributedDataParallelKwargs(find_unused_parameters=True)  # a recipe may rest a part for some steps
        self.accelerator = Accelerator(mixed_precision=options.precision, kwargs_handlers=[partly])
        if options.precision == "fp16" and self.accelerator.device.type != "cuda":
            raise RequestError("fp16 training needs a CUDA device; take bf16 or no reduced precision on a CPU.")
        self.order = Order(rows, options.seed)
        world = self.accelerator.num_processes
        self.examples_per_step = options.batch_size * options.accumulation * world
        self.total = options.steps or max(1, math.ceil(options.epochs * rows / self.examples_per_step))
        self.main = self.accelerator.is_main_process
        self._journal = Journal(output, self.total, options.tensorboard)
        self._settings: dict[str, Any] | None = None
        latest = self.latest()
        if latest is not None and not options.resume:
            raise RequestError(f"{output} already holds a training run; go on with --resume, or name another folder.")

    def agree(self, recipe: Any) -> None:
        """Note what `recipe`, a recipe's options, begins with, before anything is loaded. RequestError: the run that it
        should go on with was begun with something else, or has more steps already."""
        self._settings = settings_of(recipe, self.total, self.accelerator.num_processes)
        latest, before = self.latest(), read_record(self.output)
        if latest is None:
            return
        if before is not None:
            require_same(self.output, before, self._settings)
        done = _step_of(latest)
        if done > self.total:
            raise RequestError(f"The run in {self.output} already has {done} steps, more than the {self.total} that are "
                               "asked for: ask for more, or name another folder.", path=self.output, steps=done)
        if done == self.total and self.main:
            print(f"The run in {self.output} already has all of its {done} steps: nothing is left to train.", flush=True)

    def seed(self) -> None:
        """Fix the random numbers of initialisation and dropout; not the data's, which need no state."""
        random.seed(self.options.seed)
        np.random.seed(self.options.seed % 2**32)
        torch.manual_seed(self.options.seed)

    def micro_batches(self, step: int) -> Iterator[list[int]]:
        """The rows of this process, for each forward pass of a step."""
        size, world = self.options.batch_size, self.accelerator.num_processes
        for turn in range(self.options.accumulation):
            start = step * self.examples_per_step + (turn * world + self.accelerator.process_index) * size
            yield self.order.rows_at(start, size)

    def step(self, model: nn.Module, optimizer: Any, losses: Iterable[Tensor], step: int) -> float:
        """One optimiser step over the losses of its micro-batches; their mean."""
        options, total = self.options, 0.0
        for group in optimizer.param_groups:
            group["lr"] = group.get("peak", options.learning_rate) * rate(options, step, self.total)
        optimizer.zero_grad()
        for loss in losses:
            self.accelerator.backward(loss / options.accumulation)
            total += float(loss.detach()) / options.accumulation
        if self.accelerator.num_processes > 1:      # what all of them saw; and all of them stop together
            total = float(self.accelerator.reduce(torch.tensor(total, device=self.accelerator.device), "mean"))
        if not math.isfinite(total):
            raise RequestError(f"The loss became {total} at step {step + 1}; lower the learning rate, or clip harder.")
        self.accelerator.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        return total

    # ---- checkpoints

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        found = sorted((self.output / "checkpoints").glob("step-*"))
        return found[-1] if found else None

    def save(self, step: int) -> None:
        """Keep everything that the next step depends on; older checkpoints beyond `keep` go."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.num_processes > 1:
            self._save_together(self._place(step))
        else:
            with staged_folder(self._place(step), force=True) as folder:
                self.accelerator.save_state(str(folder))
        if self.main:
            self._journal.flush()
            self.best.settle()
            for old in sorted((self.output / "checkpoints").glob("step-*"))[: -self.options.keep]:
                shutil.rmtree(old)

    def _save_together(self, place: Path) -> None:
        """Every process adds its random state; then, and not before, the checkpoint takes its name."""
        partial = place.with_name(f".{place.name}")
        if self.main and partial.exists():
            shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.main:
            with writing_into(self.output):
                if place.exists():
                    shutil.rmtree(place)
                os.replace(partial, place)
        self.accelerator.wait_for_everyone()

    def restore(self) -> int:
        """Continue where the newest checkpoint ends; the number of steps done. Everything else is ready by now, so a run
        that cannot be leaves no folder."""
        if self.main:
            with writing_into(self.output):
                self.output.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        latest, done = self.latest(), 0
        if latest is not None:
            self._load(latest)
            done = _step_of(latest)
        if self.main and self._settings is not None and latest is None:
            with writing_into(self.output):
                write_record(self.output, self._settings)
        if self.main:       # also what a run left that was killed before its first checkpoint
            self._journal.begin(done)
            self.best.forget_after(done)
        self.accelerator.wait_for_everyone()
        return done

    def _load(self, checkpoint: Path) -> None:
        torch.rand(1)       # no checkpoint holds this state: accelerate passes over random states that it cannot read
        before = torch.get_rng_state()
        try:
            self.accelerator.load_state(str(checkpoint))
            if torch.equal(before, torch.get_rng_state()):
                raise ValueError("the random state cannot be read; is it a run of fewer processes?")
        except (RuntimeError, OSError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
            reason = " ".join(str(error).strip().splitlines()[:1]).rstrip(".:")   # the rest may list every tensor
            raise RequestError(f"{checkpoint} is damaged, or belongs to another model ({reason}): go on with the command "
                               "that began the run, or remove this checkpoint to go on from the one before.",
                               path=checkpoint) from error

    # ---- the weights that the run leaves

    def consider(self, step: int, value: float, network: nn.Module) -> None:
        """A validation gave `value`; with `choose="best"`, the weights of the lowest are kept."""
        if self.main and self.options.choose == "best":
            self.best.consider(step, value, network)

    def chosen(self, network: nn.Module) -> int:
        """Give `network` the weights that the run leaves; the step they come from. For the main process."""
        if self.options.choose == "last":
            return self.total
        step = self.best.step()
        if step is None:
            raise RequestError(f"No validation in {self.output} kept its weights: leave the last ones with --choose last, "
                               "or train again.")
        self.best.load(network)
        print(f"Took the weights of step {step}, whose validation {self.best.value():.5g} is the lowest.", flush=True)
        return step

    def _place(self, step: int) -> Path:
        return self.output / "checkpoints" / f"step-{step:08d}"

    # ---- the journal

    def log(self, step: int, values: dict[str, float], kind: str = "train") -> None:
        """One line in log.jsonl, on stdout, and to TensorBoard if that is on."""
        if self.main:
            self._journal.log(step, values, kind)

    def show(self, step: int, name: str, picture: Tensor) -> None:
        """uint8 [3, H, W] into `samples/` and to TensorBoard. For the main process."""
        self._journal.show(step, name, picture)

    def close(self) -> None:
        """Write out what is still buffered."""
        self._journal.close()
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()
