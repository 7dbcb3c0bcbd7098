"""List the families of checkpoints, the layouts each can be written in, and its ModelScope tasks."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``danqing families`` takes none."""


def run(args: argparse.Namespace) -> None:
    """Print a paragraph per family."""
    from danqing_pack.families import FAMILIES

    for family in FAMILIES:
        print(f"{family.name}: {family.title}")
        print(f"  writes   {', '.join(family.layouts)}, and each of them in an EAS bundle")
        print(f"  tasks    {', '.join(family.tasks)}")
