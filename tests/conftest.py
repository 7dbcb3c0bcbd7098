"""What every test may use: reference data, converted folders, and an environment that asks nobody outside."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

# A busy machine makes torch's spinning threads a hundred times slower; the hubs are never asked.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell starts background jobs deaf to Ctrl-C, and their children inherit that: tests that send it would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference data from the original implementations; read only."""
    return GOLDEN


@pytest.fixture(scope="session")
def painter_checkpoint() -> Path:
    """The small painter of the reference data, as EasyNLP wrote it; read only."""
    return GOLDEN / "easynlp" / "painter_tiny" / "checkpoint"


@pytest.fixture(scope="session")
def painter_folder(painter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same painter as a diffusers folder; read only."""
    from danqing_pack import convert

    target = tmp_path_factory.mktemp("painter") / "diffusers"
    convert(painter_checkpoint, target, to="diffusers")
    return target


@pytest.fixture
def painter_copy(painter_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small painter that a test may damage."""
    return Path(shutil.copytree(painter_checkpoint, tmp_path / "checkpoint"))
