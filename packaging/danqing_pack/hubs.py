"""The hubs that Danqing knows, reached through their own clients, with their own caches, tokens and mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import HubError
from .hub import Hub, Repository
from .hub import parse as _parse
from .hub_errors import reach
from .hub_huggingface import HuggingFace
from .hub_modelscope import ModelScope

HUBS: Mapping[str, Hub] = {"hf": HuggingFace(), "ms": ModelScope()}
"""Each hub by the prefix that names it."""


def parse(text: str, revision: str | None = None) -> Repository:
    """``hf:org/name``, ``ms:org/name@revision``. RequestError: it is written otherwise."""
    return _parse(text, HUBS, revision)


def snapshot(hub: str, repository: str, revision: str | None = None) -> Path:
    """Fetch what a repository's model needs into the hub's own cache; the folder it lies in.

    Of weights that lie there several times (pickles beside safetensors, a single file beside a diffusers folder), only
    those that are opened travel. ``repository`` may end in ``@revision``.

    Raises:
        HubError: there is no such repository or revision, it is not for this token, or the hub cannot be reached.
        RequestError: that is no name of a repository.
    """
    place = parse(f"{hub}:{repository}", revision)
    asked = HUBS[hub]

    def fetch() -> Path:
        return asked.snapshot(place.name, place.revision, None if asked.offline() else _needless(asked, place))

    return reach(asked, f"{place} cannot be fetched", fetch)


def _needless(hub: Hub, place: Repository) -> tuple[str, ...] | None:
    """The files that nobody opens; None where the hub does not tell: the client may have the rest in its cache."""
    from .needless import needless

    try:
        names = reach(hub, f"{place} cannot be looked at", lambda: hub.list(place.name, place.revision)).files
    except HubError:
        return None
    return tuple(sorted(needless(names.keys())))
