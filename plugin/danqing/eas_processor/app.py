"""The entry of Danqing's processor on PAI-EAS; `danqing eas processor` packs it beside the wheel of Danqing.

It puts the wheel's content in front of what is importable, sees that the wheel's requirements are met (from wheelhouse/
beside it, where there is one), and runs the processor. What stands here must be readable to any Python 3, so that an
image whose Python is too old says so in a sentence.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

LEAST = (3, 10)


def main() -> None:
    """Prepare, then answer requests until the service ends."""
    home = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info[:2] < LEAST:
        sys.exit(f"Danqing needs Python 3.10 or newer, and this is {sys.version.split()[0]}: give the service an "
                 "environment that has it (data_image, or ENV beside app.py).")
    wheels = [name for name in os.listdir(home) if name.startswith("danqing-") and name.endswith(".whl")]
    if len(wheels) > 1:
        sys.exit(f"{home} holds several wheels of Danqing: keep one.")
    if wheels:
        sys.path.insert(0, unpacked(os.path.join(home, wheels[0])))
        provide(home)
    from danqing.eas_processor.processor import serve

    serve(home)


def unpacked(wheel: str) -> str:
    """A folder with the files of a wheel of plain Python; it is gone when this program ends."""
    folder = tempfile.mkdtemp(prefix="danqing-")
    atexit.register(removed, folder, os.getpid())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def removed(folder: str, owner: int) -> None:
    """Remove a folder, in the process that made it: worker processes end earlier."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def provide(home: str) -> None:
    """Install what requirements.txt asks for and this Python has not."""
    path = os.path.join(home, "requirements.txt")
    with open(path, encoding="utf-8") as file:
        wanted = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    missing = [each for each in wanted if not is_met(each)]
    if not missing:
        return
    if os.environ.get("DANQING_INSTALL") == "0":
        sys.exit(f"This Python lacks {', '.join(missing)}: install that, or pack it with --wheelhouse.")
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    wheelhouse = os.path.join(home, "wheelhouse")
    if os.path.isdir(wheelhouse):
        command += ["--no-index", "--find-links", wheelhouse]
    print(f"Installing {', '.join(missing)}.", flush=True)
    if subprocess.call(command + missing):
        sys.exit(f"{', '.join(missing)} could not be installed (pip says why above): pack the wheels with --wheelhouse, "
                 "or take an image that has them.")


def is_met(requirement: str) -> bool:
    """Whether this Python has what a line such as `name>=1.2,<3` asks for."""
    from importlib import metadata

    end = next((index for index, sign in enumerate(requirement) if sign in "<>=!~ ;["), len(requirement))
    try:
        have = numbers(metadata.version(requirement[:end]))
    except metadata.PackageNotFoundError:
        return False
    for bound in requirement[end:].split(","):
        sign = bound[:2].strip("0123456789 ")
        limit = numbers(bound[len(sign):])
        if sign == ">=" and have < limit or sign == "<" and have >= limit:
            return False
    return True


def numbers(version: str) -> "list[int]":
    """The leading numbers of a version: [2, 6] of `2.6+cpu`, with which versions compare well enough here."""
    found = []
    for part in version.strip().split("+")[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return found


if __name__ == "__main__":
    main()
