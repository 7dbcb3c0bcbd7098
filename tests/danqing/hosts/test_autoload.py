"""The start-up hook: installed, in an interpreter of its own, and part by part with hosts made for the test."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from email.parser import HeaderParser
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import danqing_autoload
import pytest
from danqing.version import __version__

Environment = Any  # the class in conftest.py: test modules cannot import each other
STATE = """
import sys
print(*[type(finder).__module__ for finder in sys.meta_path], "|", *[name for name in sys.modules if "danqing" in name])
"""
HOOK = "danqing_autoload"
PLUGIN = Path(danqing_autoload.__file__).parent


def watches(output: str) -> bool:
    """Whether the hook is among the finders that STATE printed."""
    return HOOK in output.partition("|")[0].split()


# --- installed


def test_the_wheel_carries_all_and_asks_for_what_modelscope_imports(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = HeaderParser().parsestr(archive.read(next(n for n in names if n.endswith("METADATA"))).decode())
        line = archive.read("danqing_autoload.pth").decode()
    roots = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert roots == {"danqing", "danqing_pack", "danqing_autoload.py", "danqing_autoload.pth"}
    assert line.count("\n") == 1 and line.startswith("import "), "site executes a line only if it begins so"
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    required = {word.split(";")[0].strip() for word in metadata.get_all("Requires-Dist", []) if "extra ==" not in word}
    assert "huggingface-hub<3,>=1.32" in required
    assert {"addict", "datasets", "simplejson", "sortedcontainers"} <= required
    assert not [word for word in required if "[framework]" in word]
    assert metadata["License-Expression"] == "Apache-2.0"


def test_card_templates_go_into_the_package_and_may_be_missing(tmp_path: Path) -> None:
    for name in ("plugin", "packaging", "pyproject.toml", "LICENSE", "README.md"):
        (tmp_path / name).symlink_to(PLUGIN.parent / name)

    def names_in_wheel() -> list[str]:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        with zipfile.ZipFile(next(tmp_path.glob("dist/*.whl"))) as archive:
            return archive.namelist()

    assert not [name for name in names_in_wheel() if "model_cards" in name]
    (tmp_path / "model_cards").mkdir()
    (tmp_path / "model_cards" / "painter.en.md").write_text("# painter\n")
    assert "danqing_pack/model_cards/painter.en.md" in names_in_wheel()


@pytest.mark.slow
def test_the_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), "-t"]
    subprocess.run([*command, "sdist"], cwd=PLUGIN.parent, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert (unpacked / "tests" / "conftest.py").is_file() and (unpacked / "tools" / "test").is_file()
    subprocess.run([*command, "wheel"], cwd=unpacked, check=True, capture_output=True)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_it_watches_and_imports_nothing(bare: Environment) -> None:
    output = bare.run(STATE)
    assert watches(output)
    assert output.partition("|")[2].split() == [HOOK]
    modules = "import sys; print(*sorted(sys.modules))"
    with_hook, without = (set(bare.run(modules, DANQING_AUTOLOAD=value).split()) for value in ("1", "0"))
    assert with_hook - without == {HOOK}


def test_the_variable_turns_it_off_until_danqing_is_imported(bare: Environment) -> None:
    assert not watches(bare.run(STATE, DANQING_AUTOLOAD="0"))
    assert watches(bare.run("import danqing" + STATE, DANQING_AUTOLOAD="0"))


@pytest.mark.parametrize(("option", "there"), [("-S", False), ("-I", True), ("-E", True), ("-B", True)])
def test_the_interpreters_own_switches(bare: Environment, option: str, there: bool) -> None:
    done = bare.start(STATE, options=(option,))
    assert (done.returncode, done.stderr) == (0, "")
    assert watches(done.stdout) is there


def test_without_a_host_nothing_happens(bare: Environment) -> None:
    """Only Danqing is installed: its own import works, and a missing host is missed as everywhere else."""
    done = bare.start("import danqing; print(danqing.__version__); import modelscope.pipelines.builder")
    assert done.stdout.strip() == __version__
    assert done.stderr.strip().endswith("ModuleNotFoundError: No module named 'modelscope'")
    assert "Warning" not in done.stderr


def test_uninstalling_takes_everything_away(uninstalled: Environment) -> None:
    assert list(uninstalled.site.iterdir()) == []
    done = uninstalled.start(STATE)
    assert (done.returncode, done.stderr) == (0, "") and not watches(done.stdout)


def test_what_an_uninstaller_leaves_behind_is_silent(uninstalled: Environment) -> None:
    host = uninstalled.site / "modelscope" / "pipelines"
    host.mkdir(parents=True)
    (host / "builder.py").write_text("ready = True\n")
    for name in ("danqing_autoload.pth", "danqing_autoload.py"):  # first the line alone, then both
        shutil.copy(PLUGIN / name, uninstalled.site)
        done = uninstalled.start("import modelscope.pipelines.builder as host; print(host.ready)")
        assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_an_editable_install_has_the_hook(make_environment: Callable[..., Environment], tmp_path: Path) -> None:
    environment = make_environment(with_libraries=True)
    environment.pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", PLUGIN.parent)
    assert watches(environment.run(STATE))
    assert not watches(environment.run(STATE, DANQING_AUTOLOAD="0"))
    places = environment.run("import danqing, danqing_pack; print(danqing.__file__, danqing_pack.__file__)").split()
    assert [Path(place).parents[1] for place in places] == [PLUGIN, PLUGIN.parent / "packaging"]


def test_what_it_costs_is_printed(bare: Environment) -> None:
    """Never asserted: machines are noisy. The hook's own import, in microseconds, the best of seven."""
    lines = [bare.start("pass", options=("-X", "importtime")).stderr.splitlines() for _ in range(7)]
    costs = [int(line.split("|")[1]) for each in lines for line in each if line.endswith(HOOK)]
    assert len(costs) == 7
    print(f"start-up hook: {min(costs)} us")


# --- part by part

REGISTRATION = """
registered = []
def register():
    import fake_host.engine as host
    registered.append((host.ready, getattr(host.__spec__, "_initializing", False)))
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``fake_host`` whose module ``engine`` is one that the hook waits for."""
    (tmp_path / "fake_host").mkdir()
    (tmp_path / "fake_host" / "__init__.py").touch()
    engine = tmp_path / "fake_host" / "engine.py"
    engine.write_text("import time\ntime.sleep(0.05)\nready = True\n")
    (tmp_path / "fake_registration.py").write_text(REGISTRATION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(danqing_autoload, "HOSTS", {"fake_host.engine": ("fake_registration", "register")})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    danqing_autoload.install()
    yield engine
    for name in ("fake_host.engine", "fake_host", "fake_registration"):
        sys.modules.pop(name, None)


def registered() -> list[tuple[bool, bool]]:
    """What the registration of the test has seen: was the host complete, was it still being imported."""
    module: ModuleType | None = sys.modules.get("fake_registration")
    return module.registered if module else []


def test_it_fires_when_the_host_is_complete(host: Path) -> None:
    importlib.import_module("fake_host")
    assert registered() == []
    importlib.import_module("fake_host.engine")
    assert registered() == [(True, True)]


def test_it_fires_again_after_a_reload(host: Path) -> None:
    engine = importlib.import_module("fake_host.engine")
    assert importlib.reload(engine) is engine
    assert len(registered()) == 2


def test_looking_for_the_host_is_not_importing_it(host: Path) -> None:
    spec = importlib.util.find_spec("fake_host.engine")
    assert spec is not None and spec.origin == str(host)
    assert spec.loader is not None and spec.loader.is_package("fake_host.engine") is False  # type: ignore[attr-defined]
    assert registered() == [] and "fake_host.engine" not in sys.modules


def test_the_host_keeps_its_loader(host: Path) -> None:
    engine = importlib.import_module("fake_host.engine")
    assert type(engine.__loader__) is SourceFileLoader
    assert engine.__spec__ is not None and type(engine.__spec__.loader) is SourceFileLoader
    assert inspect.getsource(engine) == host.read_text()


def test_the_host_sees_its_loader_while_it_is_imported(host: Path) -> None:
    host.write_text("ready = type(__spec__.loader).__name__, type(__loader__).__name__\n")
    assert importlib.import_module("fake_host.engine").ready == ("SourceFileLoader", "SourceFileLoader")


def test_a_host_that_fails_fails_as_ever(host: Path) -> None:
    host.write_text("raise LookupError('the host is broken')\n")
    with pytest.raises(LookupError, match="the host is broken"):
        importlib.import_module("fake_host.engine")
    assert registered() == [] and "fake_host.engine" not in sys.modules


def test_many_threads_import_one_host_and_it_fires_once(host: Path) -> None:
    found: list[bool] = []

    def work() -> None:
        found.append(importlib.import_module("fake_host.engine").ready)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert len(registered()) == 1


@pytest.mark.parametrize("action", ["default", "error"])
def test_a_registration_that_fails_warns_and_lets_the_host_be(host: Path, action: str) -> None:
    (host.parents[1] / "fake_registration.py").write_text("raise OSError('no disk')\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # type: ignore[arg-type]
        assert importlib.import_module("fake_host.engine").ready
    messages = [str(each.message) for each in caught]
    assert messages == ["danqing cannot register with fake_host.engine: OSError('no disk')"] * (action == "default")


def test_installing_twice_watches_once(host: Path) -> None:
    danqing_autoload.install()
    assert sum(type(finder).__module__ == HOOK for finder in sys.meta_path) == 1


def test_a_host_that_is_there_already_is_registered_with_at_once(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if type(finder).__module__ != HOOK]
    )
    importlib.import_module("fake_host.engine")
    assert registered() == []
    danqing_autoload.install()
    assert registered() == [(True, False)]


def test_other_finders_are_asked_in_their_order(host: Path) -> None:
    """A finder that another tool put in front keeps its say."""

    class Stranger:
        asked: list[str] = []

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            self.asked.append(name)

    sys.meta_path.insert(0, Stranger())
    sys.meta_path.append(object())  # type: ignore[arg-type]
    assert importlib.import_module("fake_host.engine").ready
    assert "fake_host.engine" in Stranger.asked and len(registered()) == 1
