"""The legacy grid for every number of steps, and what stock pipelines do with a part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from danqing.components import LegacyPLMSScheduler
from danqing_pack.errors import RequestError
from diffusers import DDIMScheduler, PNDMScheduler

IMPOSSIBLE = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
"""Counts at which the original left its table and crashed."""


def grid(steps: int, total: int = 1000) -> list[int]:
    return [step + 1 for step in range(0, total, total // steps)][::-1]


def run(scheduler: Any, predict: Callable[[torch.Tensor, int], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for step in scheduler.timesteps:
        x = scheduler.step(predict(x, int(step)), step, x).prev_sample
    return x


def wave(x: torch.Tensor, step: int) -> torch.Tensor:
    """A smooth noise prediction that depends on both of its arguments."""
    return torch.sin(3 * x + step / 100) + 0.1 * x


@pytest.fixture
def scheduler() -> LegacyPLMSScheduler:
    return LegacyPLMSScheduler()


def test_every_count(scheduler: LegacyPLMSScheduler) -> None:
    for steps in range(1, 1001):
        if steps in IMPOSSIBLE:
            with pytest.raises(RequestError, match=f"^{steps} steps would reach timestep"):
                scheduler.set_timesteps(steps)
            continue
        scheduler.set_timesteps(steps)
        points = grid(steps)
        assert scheduler.timesteps.tolist() == [points[0], *(points[1:2] or points), *points[1:]]
        assert scheduler.num_inference_steps == steps


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_no_number_of_steps(steps: int, scheduler: LegacyPLMSScheduler) -> None:
    with pytest.raises(RequestError, match="between 1 and 1000"):
        scheduler.set_timesteps(steps)


def test_the_remedy_works(scheduler: LegacyPLMSScheduler) -> None:
    for steps in IMPOSSIBLE:
        with pytest.raises(RequestError) as caught:
            scheduler.set_timesteps(steps)
        scheduler.set_timesteps(int(str(caught.value).rpartition("; ")[2].split()[0]))


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 7, 10, 13, 20, 48, 99, 240, 500])
def test_a_run_is_the_originals(steps: int, scheduler: LegacyPLMSScheduler, original: ModuleType) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []

    def predict(x: torch.Tensor, step: int) -> torch.Tensor:
        calls.append(step)
        return wave(x, step)

    scheduler.set_timesteps(steps)
    expected, _ = original.plms(predict, scheduler.alphas_cumprod, steps, x)
    theirs, calls = calls, []
    found = run(scheduler, predict, x)
    assert calls == theirs
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_where_the_grids_agree_it_is_stock_pndm(steps: int, scheduler: LegacyPLMSScheduler) -> None:
    stock = PNDMScheduler.from_config(scheduler.config)
    for each in (scheduler, stock):
        each.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == stock.timesteps.tolist()
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(run(scheduler, wave, x), run(stock, wave, x))


def test_where_they_do_not_it_is_not(scheduler: LegacyPLMSScheduler) -> None:
    stock = PNDMScheduler.from_config(scheduler.config)
    stock.set_timesteps(7)
    scheduler.set_timesteps(7)
    assert stock.timesteps.tolist() != scheduler.timesteps.tolist() and scheduler.timesteps[-1] == 1


def test_reference_timesteps(scheduler: LegacyPLMSScheduler, expected: Callable[[str], Any]) -> None:
    data = expected("sample")
    for steps in (10, 20):
        scheduler.set_timesteps(steps)
        points = sorted(set(scheduler.timesteps.tolist()))
        assert points == sorted(data[f"timesteps_steps{steps}"].flatten().tolist())
        alphas = data[f"alphas_steps{steps}"].flatten().sort().values
        torch.testing.assert_close(scheduler.alphas_cumprod[points].sort().values, alphas.float(), rtol=1e-5, atol=0)
        assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


# ---------------------------------------------------------------- runs that begin further in

@pytest.mark.parametrize("steps", [7, 10, 20])
def test_a_run_from_the_middle_ends_where_the_picture_is(steps: int, scheduler: LegacyPLMSScheduler) -> None:
    """Every noise prediction is right, so each run has to end at the latents of the last timestep but one: alpha[0]."""
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    alphas = scheduler.alphas_cumprod
    end = alphas[0].sqrt() * clean + (1 - alphas[0]).sqrt() * noise
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    for begin in range(len(timesteps)):
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(begin)
        x = scheduler.add_noise(clean, noise, timesteps[begin:begin + 1])
        for position, step in enumerate(timesteps[begin:]):
            x = scheduler.step(noise, step, x).prev_sample
            if position + 1 < len(timesteps) - begin:
                # Inpainting mixes in the picture at the noise of the next timestep, so that is where x must stand.
                level = scheduler.add_noise(clean, noise, timesteps[begin + position + 1:][:1])
                torch.testing.assert_close(x, level, atol=2e-3, rtol=0)
        torch.testing.assert_close(x, end, atol=2e-3, rtol=0)


def test_a_whole_run_after_a_partial_one(scheduler: LegacyPLMSScheduler) -> None:
    x = torch.randn(1, 4, 8, 8)
    scheduler.set_timesteps(10)
    expected = run(scheduler, wave, x)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(4)
    scheduler.step(x, scheduler.timesteps[4], x)
    scheduler.set_timesteps(10)
    assert scheduler.begin_index is None
    assert torch.equal(run(scheduler, wave, x), expected)


# ---------------------------------------------------------------- as a class

def test_it_saves_and_loads(tmp_path: Path) -> None:
    made = LegacyPLMSScheduler(beta_start=1e-4, beta_end=2e-2, beta_schedule="linear")
    made.save_pretrained(tmp_path)
    again = LegacyPLMSScheduler.from_pretrained(tmp_path)
    assert torch.equal(again.alphas_cumprod, made.alphas_cumprod)
    assert type(again).__module__ == "danqing.components" and isinstance(again, PNDMScheduler)


def test_another_scheduler_keeps_the_noise_schedule(tmp_path: Path) -> None:
    for made in (LegacyPLMSScheduler(), LegacyPLMSScheduler.from_config({"num_train_timesteps": 1000})):
        made.save_pretrained(tmp_path)
        for config in (made.config, LegacyPLMSScheduler.from_pretrained(tmp_path).config):
            assert torch.equal(DDIMScheduler.from_config(config).alphas_cumprod, made.alphas_cumprod)


@pytest.mark.parametrize("setting", [
    {"skip_prk_steps": False}, {"set_alpha_to_one": True}, {"prediction_type": "v_prediction"}], ids=str)
def test_what_the_original_did_not_have(setting: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="PNDMScheduler has the rest"):
        LegacyPLMSScheduler(**setting)


def test_a_step_without_timesteps(scheduler: LegacyPLMSScheduler) -> None:
    with pytest.raises(RequestError, match="call set_timesteps first"):
        scheduler.step(torch.zeros(1), 1, torch.zeros(1))
