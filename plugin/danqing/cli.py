"""The command line: one verb, one file, one place where errors become sentences.

Only the module of the verb in use is imported, so that ``danqing --help`` answers at once. A verb's module has
``add_arguments(parser)`` and ``run(args)``; one that reads its own command line sets ``RAW_ARGUMENTS = True`` and has
``run(argv)`` alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from danqing.version import __version__

VERBS = {
    "detect": "say what lies at a path",
    "convert": "write a checkpoint in another layout",
    "check": "list the problems of a folder or bundle",
    "init": "make a folder ready for ModelScope",
    "generate": "draw pictures from prompts",
    "serve": "answer requests over HTTP, as PAI-EAS does",
    "card": "write a model card with example pictures",
    "hf-space": "write the folder of an app for a Hugging Face Space",
    "ms-studio": "write the folder of an app for a ModelScope Studio",
    "pack": "make a bundle for PAI-EAS",
    "unpack": "unpack a bundle, safely",
    "eas": "package, describe, lint, try and call a service on PAI-EAS",
    "push": "publish a folder on a hub",
    "pull": "bring a model from a hub into a folder",
    "mirror": "move a model from hub to hub",
    "integrate": "let a host's command line run Danqing",
    "train": "train a painter, its first stage or a latent diffusion from a table",
    "easynlp": "train, predict or evaluate with the command lines of EasyNLP",
    "tables": "turn a table of texts and images into an image folder, and back",
    "families": "list what Danqing reads and writes",
    "demo": "show the whole way with the small painter inside",
}


NO_READER = 141
"""The exit code where whoever read our output has gone, as of a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. 0: done, 1: a problem that its sentence names, 2: wrong usage, 130: Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    from danqing_pack.errors import DanqingError

    # A polite end unwinds as Ctrl-C does, so that what was begun is removed; a service installs its own handler.
    with suppress(ValueError):              # not in the main thread: somebody else's program
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return _run(arguments)
    except DanqingError as error:
        print(f"danqing: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "danqing", "danqing_pack"):
            raise                           # a fault of ours
        print(f"danqing: {sys.executable} has no module {error.name}; install Danqing there with `pip install .`, or use "
              "the interpreter that has it, such as .venv/bin/python.", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"danqing: {error.filename or 'A file'} cannot be opened ({error.strerror}); change its permissions, or name "
              "another place.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("danqing: interrupted; nothing half done was left.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; whatever is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER


def _run(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb not in VERBS:
        parser = _overview()
        if not arguments:
            parser.print_help()
            return 0
        parser.parse_args(arguments)        # --help, --version, or an error that ends the program
        return 0
    module = import_module(f"danqing.commands.{verb.replace('-', '_')}")
    if getattr(module, "RAW_ARGUMENTS", False):
        return module.run(arguments[1:]) or 0
    parser = argparse.ArgumentParser(
        prog=f"danqing {verb}", description=module.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments[1:])) or 0


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {text}" for verb, text in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="danqing", usage="danqing VERB ...", allow_abbrev=False,
        description="Danqing 丹青: one home for Chinese text-to-image models.",
        epilog=f"verbs:\n{verbs}\n\n`danqing VERB --help` explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"danqing {__version__}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=argparse.SUPPRESS)
    return parser
