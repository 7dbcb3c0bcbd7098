"""``python -m danqing``."""

import sys

from danqing.cli import main

sys.exit(main())
