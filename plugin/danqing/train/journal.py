"""What a run notes for people: a line in log.jsonl for each look at it, sample pictures, TensorBoard."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing_pack.errors import MissingExtraError, RequestError

if TYPE_CHECKING:
    from torch import Tensor


class Journal:
    """`log.jsonl`, `samples/` and `tensorboard/` in the folder of a run. Only the main process keeps one."""

    def __init__(self, output: Path, total: int, tensorboard: bool) -> None:
        """`total`: steps of the run. Raises MissingExtraError: TensorBoard is not there."""
        self.output, self.total, self.tensorboard = output, total, tensorboard
        self._begun = 0  # steps of an earlier run
        self._writer: Any = None
        if tensorboard:
            try:
                import torch.utils.tensorboard  # noqa: F401
            except ImportError:
                raise MissingExtraError(
                    "--tensorboard needs the package tensorboard: pip install 'danqing[train]'.") from None

    def log(self, step: int, values: dict[str, float], kind: str) -> None:
        """One line in log.jsonl, on stdout, and to TensorBoard if that is on."""
        line = json.dumps({"step": step, "kind": kind, **values})
        with writing_into(self.output), open(self.output / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")
        shown = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        print(f"{kind} {step}/{self.total}  {shown}", flush=True)
        if self.tensorboard:
            for name, value in values.items():
                self._board().add_scalar(f"{kind}/{name}", value, step)

    def show(self, step: int, name: str, picture: Tensor) -> None:
        """uint8 [3, H, W] into `samples/` and to TensorBoard."""
        from PIL import Image

        folder = self.output / "samples"
        with writing_into(folder):
            folder.mkdir(exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(folder / f"{name}-{step:08d}.png")
        if self.tensorboard:
            self._board().add_image(name, picture, step)

    def begin(self, step: int) -> None:
        """The run goes on after `step`: what is noted of later steps will be done again."""
        self._begun, place = step, self.output / "log.jsonl"
        if not place.is_file():
            return
        lines = [line for line in place.read_text("utf-8", "replace").splitlines() if _step_of(line) <= step]
        partial = place.with_suffix(".partial")
        with writing_into(self.output):
            partial.write_text("".join(line + "\n" for line in lines), "utf-8")
            os.replace(partial, place)

    def flush(self) -> None:
        """A checkpoint was written: what was noted before it will not be done again."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write out what is still buffered."""
        if self._writer is not None:
            self._writer.close()

    def _board(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # what a killed run noted after its checkpoint is done, and noted, again
            self._writer = SummaryWriter(str(self.output / "tensorboard"), purge_step=self._begun + 1)
        return self._writer


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that a killed run left torn."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """What the operating system refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"The run cannot be written to {folder}: {os.strerror(error.errno or errno.EIO)}; give it room, "
                           "or choose another --output.", path=folder, errno=error.errno) from error
