"""Bundles for PAI-EAS: a checkpoint folder as one tar.gz, and back.

A bundle is flat, as the service wants it (`model_path` is unpacked into the model directory, and the processor looks
for `config.json` there): no top folder, no links. It holds the files that belong to the checkpoint by its layout, for
EasyNLP `config.json pytorch_model.bin vocab.txt` and what the trainer left that a pipeline reads
(`RRDB_ESRGAN_x4.pth`, `train_config.json`, `label_mapping.json`), for diffusers the tree. `danqing.json` is the last
member: what the checkpoint is, and the sha256 of every other file, taken in the one pass that packs them.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import archives, manifests
from .archives import Progress
from .errors import FormatError, RequestError, UnsafeError, listing
from .links import own_file
from .staging import CHECKPOINT, scratch_folder, staged_file, staged_folder

if TYPE_CHECKING:
    from .detection import Opened

_OTHER_ENDINGS = (".tar", ".zip", ".bz2", ".tbz", ".xz", ".txz", ".zst", ".7z")


@dataclass(frozen=True)
class Packed:
    """A bundle that was written: bytes of each file in it, bytes of the bundle."""

    target: Path
    family: str
    flavor: str
    files: Mapping[str, int]
    size: int

    def describe(self) -> str:
        """One line that says what was written."""
        return (f"Wrote {self.target}: {self.family}, {self.flavor} layout, {len(self.files)} files, "
                f"{sum(self.files.values()) / 1e6:,.1f} MB in {self.size / 1e6:,.1f} MB.")


@dataclass(frozen=True)
class Unpacked:
    """A folder that was written: sha256 of each file in it, and how many were compared with danqing.json."""

    target: Path
    files: Mapping[str, str]
    verified: int

    def describe(self) -> str:
        """One line that says what was written."""
        held = f"{self.verified} digests match" if self.verified else f"no {manifests.NAME}, so no digest was checked"
        return f"Wrote {self.target}: {len(self.files)} files, {held}."


def pack(source: str | os.PathLike[str], bundle: str | os.PathLike[str], flavor: str | None = None,
         force: bool = False, progress: Progress | None = None, text_length: int | None = None) -> Packed:
    """Write the checkpoint at `source` (a folder of any layout, or a bundle) to the tar.gz `bundle`.

    flavor: the layout inside, `easynlp` or `diffusers` (default: that of `source`); another one converts first.
    progress: called with the bytes done since the last call (of the conversion too, where there is one).
    text_length: text positions of a painter whose files leave them open.
    The same checkpoint gives the same bytes. `bundle` appears whole or not at all; `source` is never touched.

    Raises FormatError, ConversionError: what lies at `source` is incomplete or damaged, or a file is not the one that
    its danqing.json lists. UnsafeError: a link that leads out of the checkpoint. RequestError: the target, the flavor.
    """
    source, bundle = Path(source), Path(bundle)
    if bundle.name.lower().endswith(_OTHER_ENDINGS):
        raise RequestError(f"{bundle} is named like another kind of archive, and the service goes by the name: "
                           "end it in .tar.gz.", path=bundle)
    from .detection import opened

    with (opened(source) as given, staged_file(bundle, force, sources=[source]) as staging,
          _in_flavor(given, bundle, flavor, text_length, progress) as found):
        files = _files(found, text_length)
        describe, sizes = _describing(found, text_length), {name: path.stat().st_size for name, path in files.items()}

        def closing(digests: dict[str, str]) -> tuple[str, bytes]:
            name, data = describe(digests)
            sizes[name] = len(data)
            return name, data

        archives.write_archive(staging, files, closing, progress)
        return Packed(bundle, found.family.name, found.layout.name, sizes, staging.stat().st_size)


def unpack(bundle: str | os.PathLike[str], target: str | os.PathLike[str], force: bool = False,
           progress: Progress | None = None, limit: int | None = None) -> Unpacked:
    """Write the files of `bundle` (tar.gz, also tar, tar.bz2, zip) to the new folder `target`.

    A top folder that holds everything, as in EasyNLP's own .tgz archives, is left out. Where there is a danqing.json,
    every file it lists must be there with its digest. Files get the permissions that umask gives.

    progress: called with the bytes of the bundle read since the last call.
    limit: bytes that all files together may have; default 100 times the bundle, at most 100 GiB.
    Raises FormatError: no archive, cut off, damaged, a wrong digest. UnsafeError: a member that would leave the target,
    a link, a device, too much of anything. RequestError: the target exists or cannot be written.
    """
    bundle = Path(bundle)
    with staged_folder(target, force, sources=[bundle], marks=CHECKPOINT) as folder:
        digests = archives.unpack_archive(bundle, folder, limit, progress)
        if top := archives.common_folder(digests):
            _lift(folder, top)
            digests = {name[len(top):]: digest for name, digest in digests.items()}
        listed: Mapping[str, Any] = {}
        if manifests.NAME in digests:
            listed = manifests.decode((folder / manifests.NAME).read_bytes(), str(bundle))
            _refuse(f"{bundle} is not what its {manifests.NAME} says", manifests.differences(listed, digests), bundle)
    return Unpacked(Path(target), digests, len(listed.get("files", ())))


@contextmanager
def _in_flavor(given: Opened, bundle: Path, flavor: str | None, text_length: int | None, progress: Progress | None
               ) -> Iterator[Opened]:
    """The checkpoint lying open in the layout that goes into the bundle."""
    if flavor is None or flavor == given.layout.name:
        yield given
        return
    from .conversion import convert
    from .detection import open_folder

    with scratch_folder(beside=bundle) as scratch:
        convert(given.folder, scratch / "model", to=flavor, text_length=text_length, progress=progress)
        yield open_folder(scratch / "model")


def _files(found: Opened, text_length: int | None) -> dict[str, Path]:
    """What goes into the bundle beside danqing.json, by name. FormatError: what a pipeline needs is missing."""
    from .conversion import target_form
    from .family import Options
    from .layouts import LAYOUTS

    options = Options(text_length=text_length)
    _refuse(f"{found.folder} is not ready to be packed", found.family.problems(found.form, options), found.folder)
    for layout in LAYOUTS:                      # every key, shape and file accounted for; reads no tensor data
        if layout.name in found.family.layouts:
            target_form(found, layout, options)
    for path in found.folder.rglob("*"):
        if path.is_symlink() and path.is_dir():
            raise UnsafeError(f"{path} is a link to a folder, and a bundle holds no links: copy the folder here.",
                              path=path)
    names = [name for name in found.names if name != manifests.NAME]
    return {name: own_file(found.folder, name) for name in names}


def _describing(found: Opened, text_length: int | None) -> Callable[[dict[str, str]], tuple[str, bytes]]:
    """How digests become danqing.json: what the folder's own one says stays, if its digests hold; else it is made."""
    from .family import Options, dimensions_json

    own = manifests.read(found.folder)
    place = found.folder / manifests.NAME
    if not own:
        dimensions = dimensions_json(found.family.dimensions(found.form, Options(text_length=text_length)))

    def describe(digests: dict[str, str]) -> tuple[str, bytes]:
        if own:
            _refuse(f"{found.folder} is not what its {manifests.NAME} says", manifests.differences(own, digests), place)
            return manifests.NAME, manifests.encode({**own, "files": digests})
        return manifests.NAME, manifests.encode(manifests.build(
            family=found.family.name, layout=found.layout.name, dimensions=dimensions, files=digests,
            source={"layout": found.layout.name, "files": digests}))

    return describe


def _refuse(fact: str, problems: list[str], path: Path) -> None:
    if problems:
        raise FormatError(f"{fact}: {listing([each.rstrip('.') for each in problems], 5)}.", path=path,
                          problems=problems)


def _lift(folder: Path, top: str) -> None:
    """Move what lies in `folder/top` up into `folder`; names inside may repeat those of the way down."""
    inner = folder / f".{secrets.token_hex(8)}"
    os.rename(folder / top, inner)
    shutil.rmtree(folder / top.split("/")[0], ignore_errors=True)      # the empty way down
    for path in list(inner.iterdir()):
        os.rename(path, folder / path.name)
    inner.rmdir()
