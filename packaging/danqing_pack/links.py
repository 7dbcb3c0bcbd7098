"""Links in a checkpoint folder: which of them a bundle or a push may follow."""

from __future__ import annotations

from pathlib import Path

from .errors import UnsafeError


def own_file(folder: Path, name: str) -> Path:
    """The file itself, behind a link that stays inside the checkpoint or leads to the blobs of its hub cache.

    A checkpoint from a stranger may hold a link to anything on this machine; that would then be packed and published.

    Raises:
        UnsafeError: a link that leads elsewhere.
    """
    path, home = (folder / name).resolve(), folder.resolve()
    blobs = [place.parent / "blobs" for place in (home, *home.parents) if place.name == "snapshots"]
    if not any(path.is_relative_to(place) for place in (home, *blobs)):
        raise UnsafeError(f"{folder / name} is a link that leads out of the checkpoint, to {path}: copy the file here.",
                          path=folder / name)
    return path
