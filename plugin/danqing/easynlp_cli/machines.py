"""--worker_gpu, --device and --dtype: where and in which numbers a model runs."""

from __future__ import annotations

import argparse
import os
import sys

DOES = {"train": "trains", "predict": "draws", "evaluate": "evaluates"}


def chosen_device(args: argparse.Namespace) -> str:
    """--worker_gpu=0 means the CPU, as in the original."""
    return "cpu" if args.worker_gpu == 0 else str(args.device)


def device_and_dtype(args: argparse.Namespace) -> dict[str, str]:
    """Both as they come out, for what a prediction that goes on must agree with."""
    from danqing.devices import resolve_device, resolve_dtype

    device = resolve_device(chosen_device(args))
    return {"device": device.type, "dtype": str(resolve_dtype(args.dtype, device))}


def tell_missing_gpu(args: argparse.Namespace) -> None:
    """The original did not run without a GPU; here the CPU does the work, which is said."""
    import torch

    if args.worker_gpu > 0 and not torch.cuda.is_available():
        print(f"danqing: there is no GPU here; the CPU {DOES[args.mode]}.", file=sys.stderr)


def choose_device(args: argparse.Namespace) -> None:
    """accelerate takes a GPU where there is one, unless its environment says otherwise."""
    if args.worker_gpu == 0 or args.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
