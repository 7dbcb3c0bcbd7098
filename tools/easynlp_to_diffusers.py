#!/usr/bin/env python3
"""An EasyNLP folder to a diffusers folder: `tools/easynlp_to_diffusers.py DIR OUT [options of danqing convert]`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in ("plugin", "packaging")]

from danqing.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--to", "diffusers"]))
