"""Wildcards over the relative names of files, as both hubs' own command lines read them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matching(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits; ``*`` crosses folders, and a pattern that ends in a slash means all below."""
    return any(fnmatchcase(name, pattern + "*" if pattern.endswith("/") else pattern) for pattern in patterns)


def chosen(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a name is in ``include`` (everything, where that is empty) and not in ``exclude``."""
    return (not include or matching(name, include)) and not matching(name, exclude)
