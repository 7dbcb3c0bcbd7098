"""A folder of each family under a name that a card can use, and what runs the code of a card."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCES = {
    "painter": GOLDEN / "easynlp" / "painter_tiny" / "checkpoint",
    "chinese-ldm": GOLDEN / "easynlp" / "latent_diffusion_tiny" / "checkpoint",
    "pai-diffusion": GOLDEN / "diffusers-2023" / "pipeline",
}
RUNNER = """
import pathlib, shlex, sys
from contextlib import suppress
for place in sys.argv[1:]:
    path = pathlib.Path(place)
    print("running", path.name, flush=True)
    if path.suffix == ".py":
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "__main__"})
        continue
    from danqing import cli
    for line in path.read_text(encoding="utf-8").splitlines():
        program, *words = shlex.split(line)
        assert program == "danqing", line
        if cli.main(words):
            sys.exit(line)
"""
Run = Callable[..., str]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The small checkpoint of each family as a diffusers folder, by family; read only."""
    from danqing_pack import convert

    root = tmp_path_factory.mktemp("converted")
    for family, source in SOURCES.items():
        convert(source, root / family, to="diffusers")
    return {family: root / family for family in SOURCES}


@pytest.fixture
def painter(converted: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy of the small painter that a test may change."""
    return Path(shutil.copytree(converted["painter"], tmp_path / "painter"))


@pytest.fixture
def blocks() -> Callable[[str], list[tuple[str, str]]]:
    """The fenced blocks of a card: language and code."""
    return lambda text: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def run_blocks(tmp_path: Path) -> Run:
    """Run code in one fresh interpreter, block by block, each with names of its own; what it printed."""
    def run(found: list[tuple[str, str]], folder: Path, **variables: str) -> str:
        scratch = tmp_path / "blocks"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        places = []
        for number, (language, code) in enumerate(found):
            places.append(scratch / f"{number}.{'py' if language == 'python' else 'sh'}")
            places[-1].write_text(code, encoding="utf-8")
        done = subprocess.run([sys.executable, "-c", RUNNER, *map(str, places)], cwd=folder, capture_output=True, text=True,
                              env=environment(**variables), timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def environment(**variables: str) -> dict[str, str]:
    """This process's variables with others; an empty one is taken away."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **variables}
    return {name: value for name, value in found.items() if value}
