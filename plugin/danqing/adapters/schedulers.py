"""Schedulers by name, made from the configuration of a folder.

The solvers of 2023 end at training timestep 0, those of today at sigma 0 unless the configuration says otherwise. A
configuration of 2023 never says, so a missing ``final_sigmas_type`` means ``sigma_min`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from danqing_pack.errors import RequestError
from danqing_pack.families.pai_renewal import CLIPPING, MOVED_END

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

CLASS_NAMES = {
    "pndm": "PNDMScheduler",
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
}


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """The scheduler called ``name`` (a key of ``CLASS_NAMES``) over the noise schedule of ``config``.

    ``config`` is the configuration of any scheduler; keys that ``name`` does not know are left out. Raises
    ``RequestError`` for a name that is not in the table.
    """
    import diffusers

    if name not in CLASS_NAMES:
        raise RequestError(f"There is no scheduler {name!r}; choose one of {', '.join(CLASS_NAMES)}.", name=name)
    kind: Any = getattr(diffusers, CLASS_NAMES[name])
    scheduler: SchedulerMixin = kind.from_config(faithful_config(kind.__name__, config))
    return scheduler


def faithful_config(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with what ``class_name`` would otherwise take from its defaults, to the harm of a latent picture.

    That is the end point of a solver, and whether a prediction is clipped to -1..1, which latents exceed.

    Euler always ended at sigma 0 and takes the same key, so it is not given it. diffusers lists the keys that a file
    did not hold in ``_use_default_values``; such a key is missing too.
    """
    given = dict(config)
    defaults = list(given.get("_use_default_values", ()))
    meant: dict[str, Any] = {"final_sigmas_type": "sigma_min"} if class_name in MOVED_END else {}
    meant |= {"clip_sample": False} if class_name in CLIPPING else {}
    for key, value in meant.items():
        if key not in given or key in defaults:
            given[key] = value
    given["_use_default_values"] = [key for key in defaults if key not in meant]
    return given


def faithful(scheduler: SchedulerMixin) -> SchedulerMixin:
    """``scheduler`` itself, or one that ends where its folder of 2023 meant it to."""
    config: Mapping[str, Any] = scheduler.config  # type: ignore[attr-defined]
    wanted = faithful_config(type(scheduler).__name__, config)
    if all(wanted.get(key) == config.get(key) for key in ("final_sigmas_type", "clip_sample")):
        return scheduler
    kind: Any = type(scheduler)
    remade: SchedulerMixin = kind.from_config(wanted)
    return remade
