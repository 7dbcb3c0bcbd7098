"""What --mode=train does for every model: its flags as options of a training loop, and where the result goes.

The trained model lies in --checkpoint_dir in EasyNLP's layout, as the original left it. What belongs to the run alone
(the journal, checkpoints to go on from, the cache of image codes) lies beside it, in `<checkpoint_dir>.training`.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing_pack.errors import RequestError
from danqing_pack.staging import staged_folder

from danqing.easynlp_cli.machines import choose_device, tell_missing_gpu
from danqing.easynlp_cli.predicting import local, needed

if TYPE_CHECKING:
    from danqing.train.beginning import Options
    from danqing.train.options import LoopOptions

KEEP_ALL = 10**9


def run(args: argparse.Namespace, recipe: Callable[[dict[str, Any]], Options]) -> None:
    """Carry out one command line. `recipe` makes the options of a recipe from those that all recipes share."""
    from danqing.train.beginning import require_possible, run_recipe

    tables = [local(path.strip()) for path in needed(args, "tables").split(",")]
    if len(tables) > 2:
        raise RequestError(f"--tables names {len(tables)} tables; training takes one, and one to validate on.")
    target = Path(os.path.abspath(needed(args, "checkpoint_dir")))
    work, first = target.with_name(f"{target.name}.training"), int(os.environ.get("RANK", "0")) == 0
    may_replace = args.force or (target.is_dir() and not any(target.iterdir()))
    if target.exists() and not (may_replace or args.resume):
        raise RequestError(f"{target} exists: name another --checkpoint_dir, or replace it with --force.", path=target)
    reading = reading_of(args)
    loop = _loop(args, tables, reading)
    options = recipe({
        "data": tables[0], "validation": tables[1] if len(tables) == 2 else None, "output": str(work),
        "output_layout": "easynlp", "reading": reading, "loop": loop})
    restart = args.force and not args.resume
    require_possible(replace(options, loop=replace(loop, resume=True)) if restart else options)
    if restart and first and work.exists():
        shutil.rmtree(work)
    choose_device(args)
    if first:
        tell_missing_gpu(args)
    run_recipe(options)
    if first:
        with staged_folder(target, force=may_replace or args.resume, sources=tables) as folder:
            shutil.copytree(work / "model", folder, dirs_exist_ok=True)
        shutil.rmtree(work / "model")
        print(f"Wrote {target}; the journal and the checkpoints of the run lie in {work}.")


def reading_of(args: argparse.Namespace) -> dict[str, Any]:
    """How the tables are read: keywords of `open_examples`."""
    return {"schema": args.input_schema, "text_column": args.first_sequence, "image_column": args.second_sequence,
            "encoding": args.encoding, "skip_first_line": args.skip_first_line}


def _loop(args: argparse.Namespace, tables: Sequence[str], reading: Mapping[str, Any]) -> LoopOptions:
    """The original's optimiser: AdamW, the rate rising over a part of the steps and then falling to nothing."""
    from danqing_pack.examples import open_examples, require_examples

    from danqing.train.options import LoopOptions

    if args.optimizer_type != "AdamW":
        raise RequestError(f"--optimizer_type={args.optimizer_type} is not carried out; leave it out for AdamW.")
    if not 0 <= args.warmup_proportion <= 1:
        raise RequestError(f"--warmup_proportion is a part from 0 to 1, not {args.warmup_proportion:g}.")
    if args.epoch_num <= 0:
        raise RequestError(f"--epoch_num must be above 0, not {args.epoch_num:g}.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if args.worker_gpu > processes and args.worker_gpu > 1:
        print(f"danqing: --worker_gpu={args.worker_gpu}: this is one process; start as many with `accelerate launch "
              f"--num_processes {args.worker_gpu} -m danqing easynlp ...`.", file=sys.stderr)
    require_examples(tables[0], **reading)
    rows = len(open_examples(tables[0], **reading))
    per_step = args.micro_batch_size * args.gradient_accumulation_steps * processes
    steps = max(1, math.ceil(args.epoch_num * rows / per_step))
    every = args.save_checkpoint_steps or steps
    return LoopOptions(
        steps=steps, batch_size=args.micro_batch_size, accumulation=args.gradient_accumulation_steps,
        learning_rate=args.learning_rate, warmup=int(args.warmup_proportion * steps), schedule="linear",
        betas=(0.9, 0.999), weight_decay=args.weight_decay, clip=args.max_grad_norm, precision=_precision(args),
        seed=args.random_seed, log_every=args.logging_steps, save_every=every, validate_every=every,
        keep=KEEP_ALL if args.save_all_checkpoints else 1, resume=args.resume,
        choose="best" if len(tables) == 2 else "last")


def _precision(args: argparse.Namespace) -> str:
    """--use_amp as the device can: bf16, else fp16 as in the original; a CPU trains in fp32."""
    if not args.use_amp:
        return "no"
    import torch

    if not torch.cuda.is_available() or args.worker_gpu == 0 or args.device == "cpu":
        print("danqing: --use_amp has no effect on a CPU.", file=sys.stderr)
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
