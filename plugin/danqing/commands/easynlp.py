"""EasyNLP's command line as its articles write it: `danqing easynlp --mode=train|predict|evaluate ...`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from danqing_pack.errors import DanqingError

from danqing.easynlp_cli.flags import parse

RAW_ARGUMENTS = True
"""The flags are this module's own to read: an unknown one is answered with the nearest."""

FAMILIES = {"text2image_generation": "danqing.easynlp_cli.painter", "latent_diffusion": "danqing.easynlp_cli.latent"}
"""--app_name -> the module that knows its parameters, loads, trains and evaluates it."""


def run(argv: Sequence[str]) -> int | None:
    """Carry out one command line; the exit code."""
    from danqing.easynlp_cli.parameters import parse_parameters

    args = parse(argv)
    family: Any = import_module(FAMILIES[args.app_name])
    others = {key: app for app, place in FAMILIES.items() for key in import_module(place).PARAMETERS}
    parameters = parse_parameters(args.user_defined_parameters, family.PARAMETERS, others)
    try:
        with _own_flags():
            if args.mode == "predict":
                from danqing.easynlp_cli.predicting import predict

                predict(family, args, parameters)
            else:
                getattr(family, args.mode)(args, parameters)
    except KeyboardInterrupt:
        if args.mode == "evaluate":
            raise
        last = "row" if args.mode == "predict" else "checkpoint"
        print(f"danqing: interrupted; the same command with --resume goes on after the last {last}.", file=sys.stderr)
        return 130
    return None


@contextmanager
def _own_flags() -> Iterator[None]:
    """Sentences about tables name the flags of other commands, whose words are joined by dashes."""
    try:
        yield
    except DanqingError as error:
        said = str(error)
        for flag in ("--skip-first-line", "--input-schema"):
            said = said.replace(flag, "--" + flag[2:].replace("-", "_"))
        if said == str(error):
            raise
        raise type(error)(said, **error.data) from error
