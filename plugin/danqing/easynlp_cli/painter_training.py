"""--mode=train and --mode=evaluate for painters: the flags as options of `danqing.train.painter`.

The trained model lies in --checkpoint_dir in EasyNLP's layout, as the original left it. What belongs to the run alone
(the journal, checkpoints to go on from, the cache of image codes) lies beside it, in `<checkpoint_dir>.training`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from danqing_pack.errors import RequestError
from danqing_pack.staging import staged_folder

from danqing.easynlp_cli.machines import choose_device
from danqing.easynlp_cli.painter import load_painter, match_entities, open_entities, tell_sizes
from danqing.easynlp_cli.predicting import local, needed

if TYPE_CHECKING:
    from danqing.train.loop import LoopOptions

KEEP_ALL = 10**9


def train(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Carry out one command line."""
    from danqing.train.painter import PainterOptions, train_painter

    tables = [local(path.strip()) for path in needed(args, "tables").split(",")]
    if len(tables) > 2:
        raise RequestError(f"--tables names {len(tables)} tables; training takes one, and one to validate on.")
    target = Path(os.path.abspath(needed(args, "checkpoint_dir")))
    work, first = target.with_name(f"{target.name}.training"), int(os.environ.get("RANK", "0")) == 0
    replace = args.force or (target.is_dir() and not any(target.iterdir()))
    if target.exists() and not (replace or args.resume):
        raise RequestError(f"{target} exists: name another --checkpoint_dir, or replace it with --force.", path=target)
    if args.force and not args.resume and first and work.exists():
        shutil.rmtree(work)
    reading = _reading(args)
    loop = _loop(args, tables, reading)
    choose_device(args)
    with TemporaryDirectory(prefix="danqing-") as scratch:
        start = _start(parameters, Path(scratch))
        train_painter(PainterOptions(
            data=tables[0], validation=tables[1] if len(tables) == 2 else None, output=str(work),
            output_layout="easynlp", random_crop=parameters.get("random_crop", False), reading=reading, loop=loop,
            **_entities(parameters), **start))
    if first:
        with staged_folder(target, force=replace or args.resume, sources=tables) as folder:
            shutil.copytree(work / "model", folder, dirs_exist_ok=True)
        shutil.rmtree(work / "model")
        print(f"Wrote {target}; the journal and the checkpoints of the run lie in {work}.")


def evaluate(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Print the mean cross-entropy per image code of the last table, in nats."""
    from danqing_pack.examples import open_examples

    from danqing.train.loop import Loop, LoopOptions
    from danqing.train.painter import Source, validate

    path = local(needed(args, "tables").split(",")[-1].strip())
    needed(args, "checkpoint_dir")
    examples = open_examples(path, **_reading(args))
    vectors = open_entities(parameters)
    choose_device(args)
    pipe: Any = load_painter(args.checkpoint_dir, args, parameters, "fp32" if args.dtype == "auto" else args.dtype)
    match_entities(vectors, pipe, args.checkpoint_dir)
    # what training tells on stdout would stand before the result
    with TemporaryDirectory(prefix="danqing-") as scratch, redirect_stdout(sys.stderr):
        loop = Loop(LoopOptions(batch_size=args.micro_batch_size), Path(scratch), len(examples))
        pipe.to(loop.accelerator.device)
        loss = validate(pipe.transformer, Source(pipe, examples, loop, vectors=vectors), loop)
        loop.close()
    print(json.dumps({"loss": loss, "perplexity": math.exp(loss), "rows": len(examples)}))


def _reading(args: argparse.Namespace) -> dict[str, Any]:
    """How the tables are read."""
    return {"schema": args.input_schema, "text_column": args.first_sequence, "image_column": args.second_sequence,
            "encoding": args.encoding, "skip_first_line": args.skip_first_line}


def _loop(args: argparse.Namespace, tables: Sequence[str], reading: Mapping[str, Any]) -> LoopOptions:
    """The original's optimiser: AdamW, the rate rising over a part of the steps and then falling to nothing."""
    from danqing_pack.examples import open_examples

    from danqing.train.loop import LoopOptions

    if args.optimizer_type != "AdamW":
        raise RequestError(f"--optimizer_type={args.optimizer_type} is not carried out; leave it out for AdamW.")
    if not 0 <= args.warmup_proportion <= 1:
        raise RequestError(f"--warmup_proportion is a part from 0 to 1, not {args.warmup_proportion:g}.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if args.worker_gpu > processes and args.worker_gpu > 1:
        print(f"danqing: --worker_gpu={args.worker_gpu}: this is one process; start as many with `accelerate launch "
              f"--num_processes {args.worker_gpu} -m danqing easynlp ...`.", file=sys.stderr)
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


def _entities(parameters: Mapping[str, Any]) -> dict[str, Any]:
    vectors = open_entities(parameters)
    return {} if vectors is None else {"entities": str(vectors.path), "entity_count": vectors.count}


def _precision(args: argparse.Namespace) -> str:
    """--use_amp as the device can: bf16, else fp16 as in the original; a CPU trains in fp32."""
    import torch

    if not args.use_amp:
        return "no"
    if not torch.cuda.is_available() or args.worker_gpu == 0 or args.device == "cpu":
        print("danqing: --use_amp has no effect on a CPU.", file=sys.stderr)
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _start(parameters: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """What training begins with: a checkpoint, or sizes with a first stage and a vocabulary."""
    if "pretrain_model_name_or_path" in parameters:
        model = parameters["pretrain_model_name_or_path"]
        return {"model": model, "text_length": tell_sizes(model, parameters)}
    missing = [key for key in ("vqgan_ckpt_path", "vocab_path") if key not in parameters]
    if missing:
        raise RequestError(
            "--user_defined_parameters names no pretrain_model_name_or_path; training from scratch needs "
            "vqgan_ckpt_path and vocab_path (a vocab.txt; the original fetched hfl/chinese-roberta-wwm-ext's), and "
            f"{missing[0]} is missing.")
    sizes = {"n_layer": 12, "n_head": 12, "n_embd": 768} | {
        key: parameters[key] for key in ("n_layer", "n_head", "n_embd") if key in parameters}
    config = scratch / "sizes.json"
    config.write_text(json.dumps({**sizes, "text_length": parameters.get("text_len", 32)}), encoding="utf-8")
    stage = Path(parameters["vqgan_ckpt_path"])
    if stage.is_file() and stage.suffix != ".json":
        from danqing.easynlp_cli.first_stage import write_vqgan_folder

        write_vqgan_folder(stage, parameters.get("size", 256), scratch / "vqgan")
        stage = scratch / "vqgan"
    return {"model": str(config), "first_stage": str(stage), "vocab": parameters["vocab_path"]}
