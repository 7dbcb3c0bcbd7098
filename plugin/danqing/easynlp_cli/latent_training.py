"""--mode=train and --mode=evaluate for latent diffusion: the flags as options of `danqing.train.latent`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from danqing_pack.errors import RequestError

from danqing.easynlp_cli import training
from danqing.easynlp_cli.latent import load_latent_diffusion, require_family
from danqing.easynlp_cli.machines import choose_device
from danqing.easynlp_cli.predicting import local, needed


def train(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Carry out one command line."""
    from danqing.train.options import LatentOptions

    model = parameters.get("pretrain_model_name_or_path")
    if not model:
        raise RequestError("--user_defined_parameters names no pretrain_model_name_or_path; a latent diffusion is "
                           "fine-tuned from a checkpoint, not trained from scratch.")
    _match(model, parameters)

    def recipe(shared: dict[str, Any]) -> LatentOptions:
        return LatentOptions(
            **shared, model=model, random_crop=parameters.get("random_crop", False),
            gradient_checkpointing=not parameters.get("not_use_gradient_checkpoint", False))

    training.run(args, recipe)


def evaluate(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Print the mean squared error of the named noise over the last table."""
    from danqing_pack.examples import open_examples

    from danqing.places import find_checkpoint

    path = local(needed(args, "tables").split(",")[-1].strip())
    needed(args, "checkpoint_dir")
    examples = open_examples(path, **training.reading_of(args))
    require_family(args.checkpoint_dir, find_checkpoint(args.checkpoint_dir).family)
    from danqing.train.latent import NoisyLatents, validate
    from danqing.train.loop import Loop
    from danqing.train.options import LoopOptions

    choose_device(args)
    pipe: Any = load_latent_diffusion(args.checkpoint_dir, args, "fp32" if args.dtype == "auto" else args.dtype)
    with TemporaryDirectory(prefix="danqing-") as scratch, redirect_stdout(sys.stderr):
        loop = Loop(LoopOptions(batch_size=args.micro_batch_size), Path(scratch), len(examples))
        pipe.to(loop.accelerator.device)
        loss = validate(pipe.unet, NoisyLatents(pipe, loop), examples)
        loop.close()
    print(json.dumps({"loss": loss, "rows": len(examples)}))


def _match(model: str, parameters: Mapping[str, Any]) -> None:
    """FormatError unless `model` is a latent diffusion; a size that is not its own is told and not followed."""
    from danqing_pack.detection import detect

    from danqing.places import find_model

    found = detect(find_model(model))
    require_family(model, found.family)
    size = found.dimensions.image_size
    if parameters.get("size", size) != size:
        print(f"danqing: size is {size} in this checkpoint; {parameters['size']} is not followed.", file=sys.stderr)
