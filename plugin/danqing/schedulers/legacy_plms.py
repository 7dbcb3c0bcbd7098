"""PLMS on the grid of the original: a ``PNDMScheduler`` whose timesteps are those that EasyNLP visited.

The original steps by ``c = T // S`` from 1 upwards as far as the table goes, so it evaluates ``ceil(T / c)`` points,
which is S only where the division leaves nothing over. Stock PNDM always takes S points: at S = 7 the two visit
different timesteps.
"""

from __future__ import annotations

from typing import Any

import torch
from danqing_pack.errors import RequestError
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput


def legacy_grid(steps: int, train_timesteps: int = 1000) -> list[int]:
    """The timesteps of a run of ``steps``, ascending.

    Raises:
        RequestError: the original could not run so many steps: its grid would leave the noise table.
    """
    if not 1 <= steps <= train_timesteps:
        raise RequestError(f"{steps} steps cannot be sampled: choose between 1 and {train_timesteps}.", steps=steps)
    grid = [step + 1 for step in range(0, train_timesteps, train_timesteps // steps)]
    if grid[-1] >= train_timesteps:
        raise RequestError(
            f"{steps} steps would reach timestep {grid[-1]}, beyond the {train_timesteps} of the noise table; "
            f"{_nearest(steps, train_timesteps)} steps work.", steps=steps,
        )
    return grid


def _nearest(steps: int, train_timesteps: int) -> int:
    """The closest count whose grid stays inside the table."""
    def works(count: int) -> bool:
        ratio = train_timesteps // count
        return (train_timesteps - 1) // ratio * ratio + 1 < train_timesteps

    return min(filter(works, range(1, train_timesteps + 1)), key=lambda count: abs(count - steps))


class LegacyPLMSScheduler(PNDMScheduler):
    """``PNDMScheduler`` on the legacy grid.

    A run over all timesteps starts as the original did: an Euler step, a second evaluation at its end, the mean of
    both from the first point, then Adams-Bashforth of order 2, 3, 4. A run that a stock img2img or inpaint pipeline
    starts further in is told so by ``set_begin_index``; what is left of the timesteps has no second evaluation, so it
    starts with a plain Euler step.
    """

    __module__ = "danqing.components"
    _begin_index: int | None = None

    config: Any
    timesteps: torch.Tensor  # type: ignore[assignment]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
        skip_prk_steps: bool = True,
        set_alpha_to_one: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 1,
    ) -> None:
        if not skip_prk_steps or set_alpha_to_one or prediction_type != "epsilon":
            raise RequestError(
                "LegacyPLMSScheduler knows skip_prk_steps=True, set_alpha_to_one=False and prediction_type='epsilon' "
                "only; PNDMScheduler has the rest."
            )
        super().__init__(
            num_train_timesteps=num_train_timesteps, beta_start=beta_start, beta_end=beta_end,
            beta_schedule=beta_schedule, trained_betas=trained_betas, skip_prk_steps=skip_prk_steps,
            set_alpha_to_one=set_alpha_to_one, prediction_type=prediction_type, timestep_spacing=timestep_spacing,
            steps_offset=steps_offset,
        )
        # These defaults are not those of other schedulers, which leave out what diffusers notes down as a default.
        self.register_to_config(_use_default_values=[])  # type: ignore[no-untyped-call]

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Makes the grid of ``num_inference_steps``; raises ``RequestError`` where the original crashed."""
        grid = legacy_grid(num_inference_steps, self.config.num_train_timesteps)[::-1]
        super().set_timesteps(num_inference_steps, device)
        second = grid[1:2] or grid
        self.timesteps = torch.tensor(grid[:1] + second + grid[1:], dtype=torch.int64, device=device)
        self._begin_index = None

    @property
    def begin_index(self) -> int | None:
        """Where in ``timesteps`` the run starts; None for the beginning."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Called by pipelines that run only the end of the timesteps."""
        self._begin_index = begin_index

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """The sample one step nearer to the image; shapes [B, C, h, w]."""
        begin, ratio = self._begin_index or 0, self._ratio()
        if begin == 1 and self.counter == 0 and len(self.timesteps) > 2:
            # The second evaluation without the first: the next timestep is this one again, and starts the run.
            self._begin_index = 2
            return SchedulerOutput(prev_sample=sample) if return_dict else (sample,)
        if len(self.timesteps) == 2 and self.counter == 1:
            # A grid of one point has its second evaluation at that point, so both steps are the same one.
            timestep = timestep - ratio
        result: SchedulerOutput | tuple[torch.Tensor] = super().step(model_output, timestep, sample, return_dict)
        if begin and self.counter == 1:
            self.counter = 2
        return result

    def _ratio(self) -> int:
        if self.num_inference_steps is None:
            raise RequestError("The scheduler has no timesteps yet; call set_timesteps first.")
        return int(self.config.num_train_timesteps // self.num_inference_steps)
