"""Conversions that end badly: nothing half written, nothing lost, one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing_pack import convert

MakePainter = Callable[..., Any]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def danqing(*words: str | Path, prelude: str = "") -> list[str]:
    """The command line in an interpreter of its own, after a line that breaks something."""
    return [sys.executable, "-c", f"import sys\n{prelude}\nfrom danqing.cli import main\nsys.exit(main(sys.argv[1:]))",
            *map(str, words)]


@pytest.fixture
def source(make_painter: MakePainter, tmp_path: Path) -> Path:
    """A painter of about 12 MB, so that a conversion can be met in the middle."""
    return make_painter("source", codes=6000, code_width=512, image_vocab_size=16)[0]


def interrupted(source: Path, how: int) -> subprocess.CompletedProcess[str]:
    """Start a conversion that pauses at each step, and send it a signal as soon as something lies beside the target."""
    target = source.parent / "out"
    pause = "import time, danqing_pack.layouts.layout as layout\n" \
            "write = layout.write_blob\n" \
            "def slow(*args):\n    time.sleep(0.2)\n    return write(*args)\n" \
            "layout.write_blob = slow\n"
    process = subprocess.Popen(danqing("convert", source, target, "--to", "diffusers", prelude=pause), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(each.name.startswith(".danqing-partial") for each in source.parent.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline, "the conversion never began to write"
        time.sleep(0.01)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_ctrl_c_leaves_nothing(source: Path) -> None:
    before = tree(source.parent)
    done = interrupted(source, signal.SIGINT)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and "interrupted" in done.stderr
    assert tree(source.parent) == before


def test_a_killed_conversion_leaves_no_target_and_the_next_one_cleans_up(source: Path) -> None:
    before = tree(source)
    assert interrupted(source, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not (source.parent / "out").exists()
    assert tree(source) == before
    convert(source, source.parent / "out", to="diffusers")
    assert {each.name for each in source.parent.iterdir()} == {"source", "out"}


@pytest.mark.parametrize("to", ["diffusers", "easynlp"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(to: str, source: Path, tmp_path: Path) -> None:
    if to == "easynlp":
        convert(source, tmp_path / "modern", to="diffusers")
        source = tmp_path / "modern"
    before = tree(tmp_path)
    # No file may grow beyond 1 MB: what a full disk says, said by the kernel.
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    done = subprocess.run(danqing("convert", source, tmp_path / "out", "--to", to, prelude=limit), capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert tree(tmp_path) == before


def test_force_keeps_the_old_folder_when_the_new_one_fails(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    done = subprocess.run(danqing("convert", source, tmp_path / "out", "--to", "diffusers", "--force", prelude=limit),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert tree(tmp_path / "out") == {"old.txt": b"old"}


def test_an_overflow_on_the_way_to_half_is_named(make_painter: MakePainter, tmp_path: Path) -> None:
    folder, _, _ = make_painter(extra={"transformer.ln_f.weight": np.full(8, 1e6, np.float32)})
    done = subprocess.run(danqing("convert", folder, tmp_path / "out", "--to", "diffusers", "--dtype", "fp16"),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "too large for float16" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_target_that_cannot_be_written_is_one_sentence(painter_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(danqing("convert", painter_checkpoint, tmp_path / "file" / "out", "--to", "diffusers"),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_the_source_may_be_read_only(painter_copy: Path, tmp_path: Path) -> None:
    for path in painter_copy.iterdir():
        os.chmod(path, 0o444)
    os.chmod(painter_copy, 0o555)
    convert(painter_copy, tmp_path / "out", to="diffusers")
    os.chmod(painter_copy, 0o755)
