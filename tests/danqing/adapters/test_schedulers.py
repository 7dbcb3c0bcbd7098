"""Every scheduler by name gives the images of 2023."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from danqing.adapters.schedulers import CLASS_NAMES, faithful, faithful_config, make_scheduler
from danqing_pack.errors import RequestError

RUNS = {"pndm": "pndm_negative", "ddim": "ddim", "dpmsolver++": "dpmpp", "unipc": "unipc", "euler": "euler"}


@pytest.mark.parametrize(("name", "run"), RUNS.items())
def test_the_image_of_2023(pipe: Any, equals_run: Callable[..., None], name: str, run: str) -> None:
    pipe.scheduler = make_scheduler(name, pipe.scheduler.config)
    assert type(pipe.scheduler).__name__ == CLASS_NAMES[name]
    equals_run(pipe, run)


def test_twenty_steps_end_at_full_order(pipe: Any, equals_run: Callable[..., None]) -> None:
    pipe.scheduler = make_scheduler("dpmsolver++", pipe.scheduler.config)
    equals_run(pipe, "dpmpp_20", num_inference_steps=20)


def test_todays_default_is_another_image(pipe: Any, equals_run: Callable[..., None]) -> None:
    """Guards the tolerance: were the end point lost, the tests above would see it."""
    from diffusers import DPMSolverMultistepScheduler

    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(AssertionError):
        equals_run(pipe, "dpmpp")


def test_lcm_makes_an_image(pipe: Any) -> None:
    pipe.scheduler = make_scheduler("lcm", pipe.scheduler.config)
    assert pipe("猫", num_inference_steps=2, guidance_scale=1.0, output_type="np").images.shape == (1, 64, 64, 3)


def test_the_schedulers_are_switched_back_and_forth(pipe: Any, equals_run: Callable[..., None]) -> None:
    for name in (*CLASS_NAMES, "pndm"):
        pipe.scheduler = make_scheduler(name, pipe.scheduler.config)
    equals_run(pipe, "pndm_negative")


def test_no_warning_about_foreign_keys(pipe: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    for name in CLASS_NAMES:
        make_scheduler(name, pipe.scheduler.config)
    assert caplog.messages == []


def test_a_folder_with_its_own_solver_is_repaired_once(pipe: Any) -> None:
    from diffusers import UniPCMultistepScheduler

    old = UniPCMultistepScheduler.from_config({"_class_name": "UniPCMultistepScheduler", "steps_offset": 1})
    repaired = faithful(old)
    assert repaired.config["final_sigmas_type"] == "sigma_min"
    assert faithful(repaired) is repaired
    assert faithful(pipe.scheduler) is pipe.scheduler


def test_latents_are_not_clipped(pipe: Any, equals_run: Callable[..., None]) -> None:
    """A configuration without the key, such as chinese-ldm's, must not make DDIM clip."""
    config = {key: value for key, value in pipe.scheduler.config.items() if key != "clip_sample"}
    pipe.scheduler = make_scheduler("ddim", config)
    assert pipe.scheduler.config["clip_sample"] is False
    equals_run(pipe, "ddim")
    assert faithful_config("DDIMScheduler", {"clip_sample": True})["clip_sample"] is True


def test_a_stated_end_is_kept() -> None:
    assert faithful_config("UniPCMultistepScheduler", {"final_sigmas_type": "zero"})["final_sigmas_type"] == "zero"
    assert "final_sigmas_type" not in faithful_config("EulerDiscreteScheduler", {})


def test_an_unknown_name(pipe: Any) -> None:
    with pytest.raises(RequestError, match="no scheduler 'plms'; choose one of pndm"):
        make_scheduler("plms", pipe.scheduler.config)
