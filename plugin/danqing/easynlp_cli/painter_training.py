"""--mode=train and --mode=evaluate for painters: the flags as options of `danqing.train.painter`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from danqing_pack.errors import RequestError

from danqing.easynlp_cli import training
from danqing.easynlp_cli.machines import choose_device
from danqing.easynlp_cli.painter import find_painter, load_painter, match_entities, open_entities, tell_sizes
from danqing.easynlp_cli.predicting import local, needed


def train(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Carry out one command line."""
    from danqing.train.options import PainterOptions

    with TemporaryDirectory(prefix="danqing-") as scratch:

        def recipe(shared: dict[str, Any]) -> PainterOptions:
            return PainterOptions(
                **shared, **_start(parameters, Path(scratch)), **_entities(parameters),
                random_crop=parameters.get("random_crop", False))

        training.run(args, recipe)


def evaluate(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Print the mean cross-entropy per image code of the last table, in nats."""
    from danqing_pack.examples import open_examples

    path = local(needed(args, "tables").split(",")[-1].strip())
    needed(args, "checkpoint_dir")
    examples = open_examples(path, **training.reading_of(args))
    find_painter(args.checkpoint_dir, parameters)
    vectors = open_entities(parameters)
    from danqing.train.loop import Loop
    from danqing.train.options import LoopOptions
    from danqing.train.painter import Source, validate

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


def _entities(parameters: Mapping[str, Any]) -> dict[str, Any]:
    vectors = open_entities(parameters)
    return {} if vectors is None else {"entities": str(vectors.path), "entity_count": vectors.count}


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
