"""One decode step recorded as a CUDA graph.

A step of one token is a hundred and more small kernels; launched one by one they take several times longer than they
run. A graph replays them in one call. It is bound to the memory it was recorded with, so a run borrows a recording with
its keys and values, and no two runs share one.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import torch
from torch import Tensor

_IDLE = 2
"""Recordings kept for later runs; each holds keys and values of one batch."""

_recording = threading.Lock()


class FixedDecoder(Protocol):
    """What a recording needs of a decoder."""

    device: torch.device | None

    def room(self, batch: int, device: torch.device | None) -> Tensor: ...

    def fixed_step(self, input_ids: Tensor, place: Tensor, room: Tensor) -> Tensor: ...


class GraphStep:
    """``fixed_step`` for one batch size."""

    def __init__(self, decoder: FixedDecoder, batch: int) -> None:
        # Places not written yet are masked, but a NaN times a weight of zero would still be a NaN.
        self.room = decoder.room(batch, decoder.device).zero_()
        self.batch, device = batch, self.room.device
        self.input_ids = torch.zeros(batch, dtype=torch.int64, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        with torch.cuda.device(device), _recording:
            self._warm_up(decoder)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.scores = decoder.fixed_step(self.input_ids, self.place, self.room)

    def __call__(self, input_ids: Tensor, place: int) -> Tensor:
        """Scores [B, V]; the next call overwrites them."""
        self.input_ids.copy_(input_ids)
        self.place.fill_(place)
        self.graph.replay()
        return self.scores

    def _warm_up(self, decoder: FixedDecoder) -> None:
        """Libraries choose kernels and take workspace at first use, which a recording must not contain."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                decoder.fixed_step(self.input_ids, self.place, self.room)
        torch.cuda.current_stream().wait_stream(side)


class GraphPool:
    """Recordings of one decoder, lent to one run at a time."""

    def __init__(self) -> None:
        self._idle: list[GraphStep] = []
        self._lock = threading.Lock()
        self._refused = False

    def borrow(self, decoder: FixedDecoder, batch: int) -> GraphStep | None:
        """A recording for ``batch`` sequences, made if none is idle; None where this device cannot record."""
        with self._lock:
            found = next((step for step in self._idle if step.batch == batch), None)
            if found is not None:
                self._idle.remove(found)
                return found
        if self._refused:
            return None
        try:
            return GraphStep(decoder, batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refused = True
            logging.getLogger(__name__).warning("The decode step runs without a CUDA graph: %s", error)
            return None

    def give_back(self, step: GraphStep) -> None:
        """Keep a recording for later runs; the oldest ones go."""
        with self._lock:
            self._idle = [*self._idle, step][-_IDLE:]
