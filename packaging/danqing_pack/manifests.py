"""danqing.json: what a folder or a bundle is, and the sha256 of every file it was made from and of every file in it.

    {
      "dimensions": {...},                      what the family says, plain values
      "family": "painter",
      "files": {"vocab.txt": "9f86d0...", ...}, every file of the folder but danqing.json, by relative name
      "format": 1,
      "layout": "easynlp",                      of this folder; a bundle holds a folder and names the folder's
      "source": {"layout": "diffusers", "files": {"vqvae/config.json": "2c26b4...", ...}}
    }

Keys are sorted; there is no time, no absolute path and no name of the output, so the same input gives the same bytes.
Other keys may follow and are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .errors import FormatError
from .json_files import as_json
from .tensors import sha256_of

NAME = "danqing.json"
FORMAT = 1
_BESIDE_ENDINGS = (".md", ".png", ".jpg", ".jpeg", ".webp", ".gif")
_BESIDE_STARTS = ("readme", "license", "licence", "notice")


def build(*, family: str, layout: str, dimensions: Mapping[str, Any], source: Mapping[str, Any],
          files: Mapping[str, str], **extra: Any) -> dict[str, Any]:
    """The content of danqing.json. `files` and `source["files"]` map relative names to sha256 in hex."""
    return {"format": FORMAT, "family": family, "layout": layout, "dimensions": dict(dimensions),
            "source": dict(source), "files": dict(files), **extra}


def encode(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of danqing.json: the same manifest gives the same ones."""
    return as_json(manifest)


def write(folder: Path, *, family: str, layout: str, dimensions: Mapping[str, Any], source: Mapping[str, Any],
          files: Mapping[str, str], **extra: Any) -> str:
    """Write danqing.json into `folder`; its own sha256. Arguments as for `build`."""
    from hashlib import sha256

    data = encode(build(family=family, layout=layout, dimensions=dimensions, source=source, files=files, **extra))
    (folder / NAME).write_bytes(data)
    return sha256(data).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, empty where it has none. FormatError: it is damaged, or newer than this program."""
    try:
        data = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FormatError(f"{NAME} in {folder} cannot be read ({error.strerror}): check its permissions.",
                          path=folder / NAME) from error
    return decode(data, str(folder))


def decode(data: bytes, place: str) -> dict[str, Any]:
    """The manifest in the bytes of a danqing.json that lies at `place`. FormatError as for `read`."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not _is_digests(manifest.get("files")):
        raise FormatError(f"{NAME} in {place} is damaged: fetch it again, or delete it to go without digests.")
    if manifest.get("format") != FORMAT:
        raise FormatError(f"{NAME} in {place} has format {manifest.get('format')!r}, and this version of Danqing reads "
                          f"format {FORMAT}: update Danqing.")
    return manifest


def _is_digests(files: object) -> bool:
    """Names that stay below the folder, each with 64 hex digits: a stranger may have written them."""
    return isinstance(files, dict) and all(
        isinstance(digest, str) and len(digest) == 64 and not digest.strip("0123456789abcdef")
        and not os.path.isabs(name) and ".." not in name.split("/") and "\0" not in name
        for name, digest in files.items())


def differences(manifest: Mapping[str, Any], digests: Mapping[str, str]) -> list[str]:
    """One sentence for each file that `manifest` lists and `digests` (sha256 by name) has not, or has otherwise."""
    problems = []
    for name, digest in sorted(manifest.get("files", {}).items()):
        if name not in digests:
            problems.append(f"{name} is missing, and {NAME} lists it: fetch it again.")
        elif digests[name] != digest:
            problems.append(f"{name} is not the file that {NAME} lists (its sha256 differs): fetch it again, or delete "
                            f"{NAME} if the change is meant.")
    return problems


def verify(folder: Path) -> list[str]:
    """One sentence for each missing, changed or unlisted file of a folder; none where it has no danqing.json.

    Reads every listed file once, two at a time. Files that people and tools put beside a checkpoint may be unlisted:
    hidden ones, and README, licence, Markdown and pictures at the top, and what `danqing init` writes.
    """
    try:
        manifest = read(folder)
    except FormatError as error:
        return [str(error)]
    if not manifest:
        return []
    present = list(_files(folder))
    listed = [name for name in manifest["files"] if name in set(present)]
    with ThreadPoolExecutor(2) as pool:
        digests = dict(zip(listed, pool.map(lambda name: sha256_of(folder / name), listed), strict=True))
    unlisted = [name for name in present if name not in manifest["files"] and not _beside(name)]
    return differences(manifest, digests) + [
        f"{name} is not listed in {NAME}: remove it, or delete {NAME} if it belongs here." for name in unlisted]


def _files(folder: Path) -> Iterable[str]:
    """Every file below `folder` by its relative name, sorted; links to files count, they may lead into a cache."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _beside(name: str) -> bool:
    parts = name.lower().split("/")
    return (name in (NAME, "configuration.json") or any(part.startswith(".") or part == "__pycache__" for part in parts)
            or len(parts) == 1 and (name.lower().endswith(_BESIDE_ENDINGS) or parts[0].startswith(_BESIDE_STARTS)))
