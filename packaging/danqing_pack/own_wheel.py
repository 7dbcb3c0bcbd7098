"""The wheel of Danqing out of the Danqing that runs: from an installed wheel or from a checkout, with the same bytes.

The files of the two packages, the start-up hook and the card templates are taken from where they are imported from,
and the metadata from the installed distribution; `RECORD` is made anew. Nothing is built, so no build tool is needed
and nothing is fetched. Members are stored without compression (what carries the wheel compresses it), sorted, and
without times.
"""

from __future__ import annotations

import base64
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .errors import RequestError

PACKAGES = ("danqing", "danqing_pack")
HOOK = ("danqing_autoload.py", "danqing_autoload.pth")
CARDS = "model_cards"
LEFT_OUT = ("__pycache__", ".DS_Store")
EPOCH = (1980, 1, 1, 0, 0, 0)
WHEEL = b"Wheel-Version: 1.0\nGenerator: danqing\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True)
class OwnWheel:
    """The wheel: its file name, its bytes, the files in it, and what it needs, one requirement a line."""

    name: str
    data: bytes
    files: Mapping[str, bytes]
    requirements: tuple[str, ...]


def own_wheel() -> OwnWheel:
    """The wheel of the Danqing that runs. Raises RequestError where it is not installed, or not as files."""
    try:
        installed = metadata.distribution("danqing")
    except metadata.PackageNotFoundError as error:
        raise RequestError("Danqing runs from a folder and is not installed, so it has no metadata to pack: install it "
                           "with `pip install .` and try again.") from error
    described = installed.read_text("METADATA")
    if described is None:
        raise RequestError("The installed Danqing has no METADATA: install it anew with `pip install .`.")
    files = {**_sources(), **_description(installed, described)}
    return OwnWheel(f"danqing-{installed.version}-py3-none-any.whl", _zipped(files, installed.version), files,
                    tuple(each for each in installed.requires or () if "extra ==" not in each))


def _sources() -> dict[str, bytes]:
    """Every file of the packages by its name in a wheel."""
    files: dict[str, bytes] = {}
    roots = {package: _root(package) for package in PACKAGES}
    for package, root in roots.items():
        files |= _below(root, package)
    beside = roots["danqing"].parent                # site-packages, or plugin/ of a checkout
    for name in HOOK:
        files[name] = _read(beside / name)
    checkout = roots["danqing_pack"].parents[1] / CARDS
    if not (roots["danqing_pack"] / CARDS).is_dir() and checkout.is_dir():
        files |= _below(checkout, f"danqing_pack/{CARDS}")
    return files


def _root(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise RequestError(f"The package {package} does not lie on the disk as files: install Danqing with `pip install .`.")
    return Path(spec.origin).parent


def _below(root: Path, prefix: str) -> dict[str, bytes]:
    names = (Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names)
    return {f"{prefix}/{name.as_posix()}": _read(root / name) for name in names
            if not set(LEFT_OUT) & set(name.parts) and name.suffix not in (".pyc", ".pyo")}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} of the installed Danqing cannot be read ({error.strerror}): install it anew.",
                           path=path) from error


def _description(installed: metadata.Distribution, described: str) -> dict[str, bytes]:
    """The files of the dist-info folder, less what the installer wrote."""
    folder = f"danqing-{installed.version}.dist-info"
    files = {f"{folder}/METADATA": described.encode(), f"{folder}/WHEEL": WHEEL}
    for name in ("entry_points.txt", "licenses/LICENSE"):
        text = installed.read_text(name)
        if text is not None:
            files[f"{folder}/{name}"] = text.encode()
    return files


def _zipped(files: Mapping[str, bytes], version: str) -> bytes:
    record = f"danqing-{version}.dist-info/RECORD"
    lines = [f"{name},sha256={base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
             for name, data in sorted(files.items())]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [*sorted(files.items()), (record, "".join([*lines, f"{record},,\n"]).encode())]:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            archive.writestr(entry, data)
    return target.getvalue()
