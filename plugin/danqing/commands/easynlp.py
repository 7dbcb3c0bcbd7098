"""EasyNLP's command line as its articles write it: `danqing easynlp --mode=train|predict|evaluate ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

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
    parameters = parse_parameters(args.user_defined_parameters, family.PARAMETERS)
    try:
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
