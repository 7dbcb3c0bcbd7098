#!/usr/bin/env python3
"""Pack a checkpoint for PAI-EAS, from a checkout: the same as `danqing pack MODEL BUNDLE`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / source) for source in ("plugin", "packaging")]

from danqing.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
