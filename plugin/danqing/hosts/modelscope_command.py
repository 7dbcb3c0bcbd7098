"""`modelscope danqing VERB ...`: found by the entry point group ``modelscope_hub.cli_plugins``.

The host imports this module whenever it starts, so it imports nothing, and the verbs' own parsers do the rest.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any


class Danqing:
    """The host's idea of a command: registered on a subparser, made with the arguments, executed."""

    name = "danqing"

    def __init__(self, arguments: Namespace) -> None:
        self._words: list[str] = arguments.danqing_words

    @classmethod
    def register(cls, subparsers: Any) -> None:
        """Take every word behind ``danqing`` as it is, options and ``--help`` included."""
        parser: ArgumentParser = subparsers.add_parser(
            cls.name, help="read, convert, run, pack and publish Chinese text-to-image models", add_help=False)

        def take(words: list[str] | None = None, namespace: Namespace | None = None) -> tuple[Namespace, list[str]]:
            return Namespace(danqing_words=list(words or ()), _command=cls), []

        parser.parse_known_args = take  # type: ignore[method-assign, assignment]

    def execute(self) -> None:
        """Run the command; its exit code is the host's."""
        from danqing.cli import main

        if code := main(self._words):
            raise SystemExit(code)


