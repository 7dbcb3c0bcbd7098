"""The noise schedule of a latent diffusion model: the buffers its file may hold, and the scheduler that uses them.

The original computes in float64 and stores float32. What it stored is what it sampled with, whatever config.json says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FormatError

Array = np.ndarray[Any, Any]
BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)
"""Names under which the original registers its schedule, each [timesteps]."""
DIFFUSERS_NAMES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}
"""What diffusers calls the schedules that it has; the original's ``linear`` is linear in the roots."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Parameters of the original ``make_beta_schedule``; ``given`` are betas that stand for themselves."""

    name: str = "linear"
    start: float = 1e-4
    end: float = 2e-2
    timesteps: int = 1000
    cosine_s: float = 8e-3
    v_posterior: float = 0.0
    given: tuple[float, ...] = ()

    def betas(self) -> Array:
        """float64 [timesteps], as the original computed them."""
        if self.given:
            return np.asarray(self.given, np.float64)
        if self.name == "linear":
            return _linspace(self.start**0.5, self.end**0.5, self.timesteps) ** 2
        if self.name == "sqrt_linear":
            return _linspace(self.start, self.end, self.timesteps)
        if self.name == "sqrt":
            return _linspace(self.start, self.end, self.timesteps) ** 0.5
        if self.name == "cosine":
            angles = (np.arange(self.timesteps + 1) / self.timesteps + self.cosine_s) / (1 + self.cosine_s) * np.pi / 2
            left: Array = np.cos(angles) ** 2
            return np.clip(1 - left[1:] / left[:-1], 0, 0.999)
        raise FormatError(f"config.json names the beta_schedule {self.name}, which the original does not have; it has "
                          "linear, sqrt_linear, sqrt and cosine.")

    def buffers(self) -> dict[str, Array]:
        """Every buffer of ``BUFFERS``, float32 [timesteps]."""
        betas = self.betas()
        alphas = 1.0 - betas
        product = np.cumprod(alphas)
        before = np.append(1.0, product[:-1])
        variance = (1 - self.v_posterior) * betas * (1.0 - before) / (1.0 - product) + self.v_posterior * betas
        values = (
            betas, product, before, np.sqrt(product), np.sqrt(1.0 - product), np.log(1.0 - product),
            np.sqrt(1.0 / product), np.sqrt(1.0 / product - 1), variance, np.log(np.maximum(variance, 1e-20)),
            betas * np.sqrt(before) / (1.0 - product), (1.0 - before) * np.sqrt(alphas) / (1.0 - product),
        )
        return {name: value.astype(np.float32) for name, value in zip(BUFFERS, values, strict=True)}


def schedule_from_config(params: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule that the parameters of the original ``DDPM`` describe."""
    given = params.get("given_betas")
    return NoiseSchedule(
        str(params.get("beta_schedule", "linear")), float(params.get("linear_start", 1e-4)),
        float(params.get("linear_end", 2e-2)), len(given) if given else int(params.get("timesteps", 1000)),
        float(params.get("cosine_s", 8e-3)), float(params.get("v_posterior", 0.0)), tuple(given or ()))


def schedule_from_scheduler(config: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule of a diffusers scheduler's config."""
    betas = config.get("trained_betas")
    name = str(config.get("beta_schedule", "scaled_linear"))
    names = {theirs: ours for ours, theirs in DIFFUSERS_NAMES.items()}
    if betas is None and name not in names:
        raise FormatError(f"The scheduler's config names the beta_schedule {name}, which the original code does not "
                          f"have; it has {', '.join(names)}.")
    return NoiseSchedule(names.get(name, "linear"), float(config.get("beta_start", 0.00085)),
                         float(config.get("beta_end", 0.012)), int(config.get("num_train_timesteps", 1000)),
                         given=tuple(float(each) for each in betas) if betas is not None else ())


def scheduler_config(schedule: NoiseSchedule, stored: Array | None) -> dict[str, Any]:
    """The config of a ``LegacyPLMSScheduler``; ``stored`` are the ``alphas_cumprod`` of the file, where it has them.

    They decide. Where the parameters of ``schedule`` say the same in words that diffusers knows, these are written.
    """
    if stored is not None and (stored.ndim != 1 or not len(stored)):
        raise FormatError(f"The buffer alphas_cumprod has shape {list(stored.shape)}, where one axis is expected.")
    product = np.cumprod(1.0 - schedule.betas()) if stored is None else stored.astype(np.float64)
    named = schedule.name in DIFFUSERS_NAMES and not schedule.given and (
        schedule.name != "cosine" or schedule.cosine_s == 8e-3)
    agreed = named and len(product) == schedule.timesteps and np.allclose(
        product, np.cumprod(1.0 - schedule.betas()), rtol=1e-6, atol=0)
    betas = None if agreed else (1.0 - product / np.append(1.0, product[:-1])).tolist()
    return {
        "_class_name": "LegacyPLMSScheduler", "num_train_timesteps": len(product), "beta_start": schedule.start,
        "beta_end": schedule.end, "beta_schedule": DIFFUSERS_NAMES.get(schedule.name, "linear") if agreed else "linear",
        "trained_betas": betas, "skip_prk_steps": True, "set_alpha_to_one": False, "prediction_type": "epsilon",
        "timestep_spacing": "leading", "steps_offset": 1,
    }


def _linspace(start: float, end: float, count: int) -> Array:
    """``torch.linspace`` in float64: it counts from both ends, which shows in the last bit."""
    if count < 2:
        return np.full(count, start)
    step = (end - start) / (count - 1)
    index = np.arange(count)
    return np.where(index < count // 2, start + step * index, end - step * (count - 1 - index))
