"""The package of the python processor for PAI-EAS: what `processor_path` takes.

Flat, as EAS unpacks it: app.py, the wheel of Danqing, requirements.txt, and wheelhouse/ with the wheels of what the
image lacks, if a folder of such was given. The same Danqing and the same wheels give the same bytes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .archives import Progress, write_archive
from .errors import RequestError, listing
from .own_wheel import own_wheel
from .staging import staged_file

APP = "danqing/eas_processor/app.py"
WHEELHOUSE = "wheelhouse"


@dataclass(frozen=True)
class ProcessorPackage:
    """A package that was written: bytes of it, its files, and requirements for which the wheelhouse has no wheel."""

    target: Path
    size: int
    files: tuple[str, ...]
    lacking: tuple[str, ...]

    def describe(self) -> str:
        """What was written, and what the image must bring."""
        line = f"Wrote {self.target}: {len(self.files)} files in {self.size / 1e6:,.1f} MB."
        if self.lacking:
            line += f" The image must have, or be able to fetch, {listing(self.lacking, 6)}."
        return line


def write_processor(target: str | os.PathLike[str], wheelhouse: str | os.PathLike[str] | None = None,
                    force: bool = False, progress: Progress | None = None) -> ProcessorPackage:
    """Write the package to `target`, a .tar.gz.

    wheelhouse: a folder of wheels, as `pip download` or `pip wheel` fill it.
    Raises RequestError: the target or the wheelhouse cannot be had, or Danqing is not installed.
    """
    target = Path(target)
    if not target.name.endswith(".tar.gz"):
        raise RequestError(f"{target} must end in .tar.gz, by which EAS knows what to unpack.", path=target)
    wheels = _wheels(Path(wheelhouse)) if wheelhouse is not None else {}
    own = own_wheel()
    files: dict[str, Path | bytes] = {
        "app.py": own.files[APP], own.name: own.data,
        "requirements.txt": "".join(f"{each}\n" for each in own.requirements).encode(), **wheels}
    with staged_file(target, force, sources=list(wheels.values())) as staging:
        write_archive(staging, files, progress=progress)
        size = staging.stat().st_size
    held = {_project(Path(name).name) for name in wheels}
    lacking = tuple(each for each in own.requirements if _project(each) not in held)
    return ProcessorPackage(target, size, tuple(sorted(files)), lacking)


def _wheels(folder: Path) -> dict[str, Path]:
    """The wheels of a folder by their name in the package; one of Danqing itself is passed over."""
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder} for the wheelhouse: fill one with `pip download -d`.", path=folder)
    found = {f"{WHEELHOUSE}/{path.name}": path.resolve() for path in sorted(folder.glob("*.whl"))
             if _project(path.name) != "danqing"}
    if not found:
        raise RequestError(f"{folder} holds no wheels (*.whl): fill it with `pip download -d`.", path=folder)
    return found


def _project(name: str) -> str:
    """The name of a project, as pip compares it, out of a requirement or of a wheel's file name."""
    words = name.split("-")[0] if name.endswith(".whl") else re.split(r"[\s<>=!~;\[(]", name)[0]
    return re.sub(r"[-_.]+", "-", words).lower()
