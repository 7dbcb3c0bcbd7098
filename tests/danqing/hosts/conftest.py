"""Environments of their own: what an installed Danqing does can only be seen in a fresh interpreter that has it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its interpreter and its site-packages."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def run(self, script: str, *words: str | Path, options: tuple[str, ...] = (), **variables: str) -> str:
        """Standard output of a script that must succeed; ``options`` are the interpreter's."""
        done = self.start(script, *words, options=options, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(
        self, script: str, *words: str | Path, options: tuple[str, ...] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script outside the checkout, with none of the variables that change what is imported."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DANQING"))}
        caches = {"MODELSCOPE_CACHE": str(self.folder / "cache"), "HF_HOME": str(self.folder / "hf")}
        return subprocess.run(
            [self.python, *options, "-c", script, *map(str, words)],
            capture_output=True, text=True, cwd=self.folder, timeout=300,
            env={**kept, **caches, **variables},
        )  # fmt: skip

    def pip(self, *words: str | Path) -> None:
        """This run's pip, working on that environment."""
        command = [sys.executable, "-m", "pip", "--quiet", "--python", self.python, *words]
        subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # type: ignore[arg-type]
    return next(target.glob("danqing-*.whl"))


@pytest.fixture(scope="session")
def libraries() -> list[Path]:
    """What lies in this environment's site-packages, less Danqing."""
    return [path for path in Path(sysconfig.get_path("purelib")).iterdir() if "danqing" not in path.name.lower()]


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory, libraries: list[Path]) -> Callable[..., Environment]:
    """Make an environment; ``with_libraries`` puts this one's libraries behind its own, less those ``without``."""

    def make(with_libraries: bool, without: tuple[str, ...] = ()) -> Environment:
        environment = Environment(tmp_path_factory.mktemp("environment"))
        venv.create(environment.folder, symlinks=True, with_pip=False)
        if with_libraries:
            folder = environment.folder / "libraries"
            folder.mkdir()
            for entry in libraries:
                if not entry.name.lower().startswith(without):
                    (folder / entry.name).symlink_to(entry)
            # A folder named in a .pth file is searched, but its own .pth files are not executed.
            (environment.site / "libraries.pth").write_text(f"{folder}\n")
        return environment

    return make


@pytest.fixture(scope="session")
def installed(make_environment: Callable[..., Environment], wheel: Path) -> Environment:
    """An environment that holds the wheel and all libraries; tests do not change it."""
    environment = make_environment(with_libraries=True)
    environment.pip("install", "--no-deps", "--no-index", wheel)
    return environment


@pytest.fixture(scope="session")
def bare(make_environment: Callable[..., Environment], wheel: Path) -> Environment:
    """An environment that holds the wheel and nothing else; tests do not change it."""
    environment = make_environment(with_libraries=False)
    environment.pip("install", "--no-deps", "--no-index", wheel)
    return environment


@pytest.fixture
def uninstalled(make_environment: Callable[..., Environment], wheel: Path) -> Environment:
    """An environment that held the wheel, and ``kept`` its hook files for whoever wants to put them back."""
    environment = make_environment(with_libraries=False)
    environment.pip("install", "--no-deps", "--no-index", wheel)
    assert {"danqing", "danqing_pack", "danqing_autoload.pth"} <= {path.name for path in environment.site.iterdir()}
    environment.pip("uninstall", "--yes", "danqing")
    environment.site.mkdir(exist_ok=True)  # pip takes the empty folder away as well
    return environment
