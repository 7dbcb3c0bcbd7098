"""The wheel that is made of the Danqing that runs, and the processor's package around it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from danqing_pack.eas_processor import write_processor
from danqing_pack.errors import RequestError
from danqing_pack.own_wheel import OwnWheel, _zipped, own_wheel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel() -> OwnWheel:
    return own_wheel()


def test_the_record_lists_every_file_with_its_digest(wheel: OwnWheel) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as archive:
        names = archive.namelist()
        [record] = [name for name in names if name.endswith("/RECORD")]
        rows = {name: digest for name, digest, _ in csv.reader(archive.read(record).decode().splitlines())}
        assert sorted(rows) == sorted(names)
        for name in names:
            digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            assert rows[name] == ("" if name == record else f"sha256={digest}")


def test_it_holds_both_packages_the_hook_and_no_leftovers(wheel: OwnWheel) -> None:
    assert {"danqing/__init__.py", "danqing_pack/__init__.py", "danqing/py.typed", "danqing_autoload.pth",
            "danqing_autoload.py", "danqing/eas_processor/app.py"} <= wheel.files.keys()
    assert not [name for name in wheel.files if "__pycache__" in name or name.endswith(".pyc") or "direct_url" in name]
    assert any(each.startswith("torch") for each in wheel.requirements)
    assert not any("extra" in each for each in wheel.requirements)


def test_the_same_danqing_gives_the_same_bytes(wheel: OwnWheel, tmp_path: Path) -> None:
    assert own_wheel().data == wheel.data
    assert _zipped({"b": b"2", "a": b"1"}, "1") == _zipped({"a": b"1", "b": b"2"}, "1")
    first, second = (write_processor(tmp_path / name).target.read_bytes() for name in ("a.tar.gz", "b.tar.gz"))
    assert first == second


@pytest.mark.slow
def test_it_is_what_the_build_makes(wheel: OwnWheel, tmp_path: Path) -> None:
    """By content: hatchling's own wheel differs in the order and the packing of its members alone."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True,
                   capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        built = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    ours = {name: data for name, data in wheel.files.items() if ".dist-info/" not in name}
    assert ours.keys() == built.keys()
    assert [name for name in ours if ours[name] != built[name]] == []


@pytest.mark.slow
def test_pip_installs_it_and_what_is_installed_makes_the_same_sources(wheel: OwnWheel, tmp_path: Path) -> None:
    path, site = tmp_path / wheel.name, tmp_path / "site"
    path.write_bytes(wheel.data)
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True, with_pip=False)
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index",
                    "--target", site, path], check=True, capture_output=True)
    script = ("import sys; from danqing_pack.own_wheel import own_wheel; made = own_wheel(); "
              "sys.stdout.buffer.write(made.data)")
    # Only libraries from this environment, so that the installed files are found before those of the checkout.
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(next(each for each in sys.path if each.endswith("site-packages"))).iterdir():
        if "danqing" not in entry.name:
            (libraries / entry.name).symlink_to(entry)
    done = subprocess.run([environment / "bin" / "python", "-c", script], capture_output=True, check=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{libraries}"})
    assert done.stdout == wheel.data


def test_the_package_is_flat_and_small_files_come_first(package: Path) -> None:
    with tarfile.open(package) as archive:
        assert set(archive.getnames()) == {"app.py", "requirements.txt", own_wheel().name}
        assert b"torch" in archive.extractfile("requirements.txt").read()
        assert {(member.mtime, member.uid, member.mode) for member in archive} == {(0, 0, 0o644)}


def test_a_wheelhouse_goes_along_less_a_danqing_of_its_own(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    for name in ("addict-2.4.0-py3-none-any.whl", "ml_dtypes-0.5.1-cp312-cp312-linux_x86_64.whl",
                 "danqing-0.0.1-py3-none-any.whl"):
        (house / name).write_bytes(b"wheel")
    (house / "notes.txt").write_text("no wheel")
    done = write_processor(tmp_path / "p.tar.gz", house)
    assert [name for name in done.files if "wheelhouse" in name] == [
        "wheelhouse/addict-2.4.0-py3-none-any.whl", "wheelhouse/ml_dtypes-0.5.1-cp312-cp312-linux_x86_64.whl"]
    assert not any(each.startswith(("addict", "ml-dtypes")) for each in done.lacking)
    assert any(each.startswith("torch") for each in done.lacking)


@pytest.mark.parametrize(("target", "house", "words"), [
    ("p.tar.gz", "none", "There is no folder"), ("p.tar.gz", "empty", "holds no wheels"), ("p.zip", None, "end in .tar.gz"),
])
def test_what_cannot_be_packed_is_a_sentence(target: str, house: str | None, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=words):
        write_processor(tmp_path / target, tmp_path / house if house else None)
    assert not (tmp_path / target).exists()


def test_a_danqing_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(RequestError, match="pip install"):
        own_wheel()
