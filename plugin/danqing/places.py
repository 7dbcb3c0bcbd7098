"""From what a user calls a model to a path on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from danqing_pack.errors import FormatError, HubError, RequestError
from danqing_pack.hubs import HUBS, snapshot

CACHES = ("modelzoo", "appzoo")
"""Folders below EasyNLP's cache root."""
FILES = (".gz", ".tgz", ".tar", ".bz2", ".zip", ".bin", ".ckpt", ".pt", ".pth", ".safetensors")
"""Endings of files; no repository is named like one."""
OWNER = "alibaba-pai"
"""Whose models a bare name means."""


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """A path that holds the model called ``name``.

    A path that exists is taken as it is. ``hf:org/name`` and ``ms:org/name`` are fetched from that hub. Any other name
    is looked for in EasyNLP's cache (``~/.easynlp``, moved by ``EASYNLP_CACHE_ROOT``), then on the Hugging Face hub,
    below ``alibaba-pai`` where it has no owner.

    Raises:
        FormatError: it is nowhere; the sentence lists the places.
        HubError: a hub that was named cannot deliver it.
    """
    text = str(name)
    hub, _, repository = text.partition(":")
    if hub in HUBS and repository:
        return snapshot(hub, repository, revision)
    path = Path(os.path.expanduser(text))     # a user without a home keeps the tilde
    if path.exists():
        return path
    if text.startswith(("/", ".", "~")) or len(path.parts) > 2 or text.endswith(FILES):
        raise FormatError(f"There is nothing at {text}; check the path.", path=path)
    return _by_name(text, revision)


@dataclass(frozen=True)
class Place:
    """Where a model lies, and what a look at a folder told; of bundles and single files nothing is known before loading."""

    path: Path
    family: str | None = None
    attachments: frozenset[str] = frozenset()
    """Networks beside the checkpoint's own, such as ``upscaler``."""


def find_checkpoint(name: str | Path, text_length: int | None = None) -> Place:
    """As ``find_model``, and a folder must be a whole checkpoint: a moment's look, before anything heavy is imported.

    Raises as ``find_model`` and ``danqing.load`` do.
    """
    from danqing_pack.detection import opened
    from danqing_pack.family import Options

    path = find_model(name)
    if not path.is_dir():
        return Place(path)
    with opened(path) as found:
        form = found.family.to_modern(found.form, Options(text_length=text_length))
        return Place(path, found.family.name, frozenset(form.attachments))


def nearest_folder(folder: Path) -> Path:
    """What is there of a folder that is to be made: itself, or the closest of those it lies in."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def require_writable(folder: Path) -> None:
    """Refuse a place that cannot take files before minutes are spent on making them. Raises RequestError."""
    place = nearest_folder(folder)
    if not place.is_dir():
        raise RequestError(f"{place} is no folder, so nothing can be written there; name another one with -o.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RequestError(f"{place} cannot be written to; name another folder with -o.")


def _by_name(name: str, revision: str | None) -> Path:
    tried = [f"the path {name}"]
    root = Path(os.environ.get("EASYNLP_CACHE_ROOT") or os.path.expanduser("~/.easynlp"))
    last = name.rpartition("/")[2]
    for cache in (root / each for each in CACHES):
        tried.append(str(cache / last))
        for found in (cache / last, *sorted(cache.glob(f"*/{last}"))):
            if found.is_dir():
                return found
    repository = name if "/" in name else f"{OWNER}/{name}"
    try:
        return snapshot("hf", repository, revision)
    except HubError as error:
        tried.append(f"hf:{repository} ({str(error).rstrip('.')})")
    raise FormatError(f"There is no model {name}: tried {', '.join(tried)}; name a folder, a bundle, or a hub's "
                      "repository as hf:org/name or ms:org/name.", tried=tried)
