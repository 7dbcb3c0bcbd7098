"""The hubs that Danqing knows, reached through their own clients, with their own caches, tokens and mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
    """Fetch a whole repository into the hub's own cache; the folder it lies in.

    ``repository`` may end in ``@revision``.

    Raises:
        HubError: there is no such repository or revision, it is not for this token, or the hub cannot be reached.
        RequestError: that is no name of a repository.
    """
    place = parse(f"{hub}:{repository}", revision)
    return reach(HUBS[hub], f"{place} cannot be fetched", lambda: HUBS[hub].snapshot(place.name, place.revision))
