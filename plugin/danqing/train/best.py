"""The weights of the best validation of a run, kept so that a run that goes on finds the same ones.

    OUTPUT/best/step-00000400/weights.safetensors and value.json

A new best stands beside the one before it until the next checkpoint: a run that is killed and goes on from an older
checkpoint forgets what came after that checkpoint, and must find what was best until then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from danqing_pack.json_files import as_json
from danqing_pack.staging import staged_folder
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS, VALUE = "weights.safetensors", "value.json"


class BestWeights:
    """Those of the lowest value so far, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(self) -> int | None:
        """The step whose weights are kept; None: there are none."""
        kept = self._kept()
        return int(kept[-1].name.removeprefix("step-")) if kept else None

    def value(self) -> float:
        """Theirs; infinity where none are kept."""
        kept = self._kept()
        return float(json.loads((kept[-1] / VALUE).read_text("utf-8"))["value"]) if kept else float("inf")

    def consider(self, step: int, value: float, network: nn.Module) -> None:
        """Keep the weights of `network` if `value` is the lowest so far; of equal ones the first stays."""
        if not value < self.value():
            return
        with staged_folder(self.folder / f"step-{step:08d}", force=True) as folder:
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
            save_file(state, folder / WEIGHTS)
            (folder / VALUE).write_bytes(as_json({"step": step, "value": value}))

    def settle(self) -> None:
        """A checkpoint was written: what was better before it is needed no more."""
        for old in self._kept()[:-1]:
            shutil.rmtree(old)

    def forget_after(self, step: int) -> None:
        """The run goes on after `step`."""
        for kept in self._kept():
            if int(kept.name.removeprefix("step-")) > step:
                shutil.rmtree(kept)

    def load(self, network: nn.Module) -> None:
        """Give `network` the weights that are kept."""
        network.load_state_dict(load_file(self._kept()[-1] / WEIGHTS))

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
