"""The page for people: one file, nothing fetched from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files


@cache
def html() -> bytes:
    """The page, in UTF-8."""
    return files("danqing.serve").joinpath("page.html").read_bytes()


def _hash(tag: str) -> str:
    """A Content-Security-Policy source for the one element of this name."""
    content = re.search(rf"<{tag}>(.*?)</{tag}>".encode(), html(), re.DOTALL)
    digest = hashlib.sha256(content[1] if content else b"").digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


POLICY = (f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; img-src data: blob:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = ((b"content-security-policy", POLICY.encode("ascii")), (b"referrer-policy", b"no-referrer"))
