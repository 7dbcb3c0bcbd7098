"""Train a painter, its first stage, or a latent diffusion, from a table or an image folder.

  danqing train painter --data train.tsv --model pai-painter-base-zh --output out --steps 2000
  danqing train painter --data train.tsv --model config.json --first-stage vqgan/model --vocab vocab.txt --output out
  danqing train vqgan --data pictures/ --model vqgan.json --output vqgan --steps 5000
  danqing train latent --data train.tsv --model chinese-ldm-general --output out --steps 2000
  accelerate launch -m danqing train painter ...            # several processes

config.json from scratch: {"n_layer": 12, "n_head": 12, "n_embd": 768}. vqgan.json: a config of diffusers' VQModel.
OUTPUT/model is the trained model, OUTPUT/checkpoints what --resume goes on from, OUTPUT/log.jsonl every loss.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danqing.train.beginning import Options
    from danqing.train.options import LoopOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three recipes as sub-verbs. Every help that has a default names it."""
    recipes = parser.add_subparsers(dest="recipe", required=True, metavar="RECIPE")
    painter = recipes.add_parser("painter", help="the GPT that writes codes after the text")
    _shared(painter, "a painter checkpoint to fine-tune, or a JSON file with n_layer, n_head, n_embd")
    painter.add_argument("--first-stage", metavar="MODEL", help="from scratch: a VQModel folder or a painter checkpoint")
    painter.add_argument("--vocab", metavar="VOCAB_TXT", help="from scratch: the vocabulary, one token a line")
    painter.add_argument("--prompts", nargs="+", default=[], metavar="TEXT", help="texts to draw with --sample-every")
    _finetuning(painter)
    painter.add_argument("--entities", metavar="FILE", help="for a painter with knowledge: the matrix of entity vectors; "
                         "the tables then need lex_id, pos_s, pos_e and token_len")
    painter.add_argument("--entity-count", type=int, default=10, metavar="N",
                         help="entities of a text that count (default: 10)")
    latent = recipes.add_parser("latent", help="the UNet of a latent diffusion of EasyNLP (chinese-ldm)")
    _shared(latent, "the checkpoint to fine-tune")
    _finetuning(latent)
    vqgan = recipes.add_parser("vqgan", help="the first stage, from pictures alone")
    _shared(vqgan, "a VQModel folder or a painter checkpoint to go on from, or a JSON file with a VQModel config")
    vqgan.add_argument("--size", type=int, metavar="PIXELS", help="of a side (default: the model's sample_size)")
    vqgan.add_argument("--codes", choices=("learned", "patches"), default="learned",
                       help="patches: codes fixed by k-means over patches, for flat drawings from scratch (default: learned)")
    vqgan.add_argument("--encoder-every", type=int, default=1, metavar="STEPS",
                       help="with patches: how often the encoder learns to name them (default: 1)")
    vqgan.add_argument("--continuous-steps", type=int, default=0, metavar="STEPS",
                       help="from scratch: steps before k-means makes the codebook (default: 0)")
    vqgan.add_argument("--squared-weight", type=float, default=2.0, metavar="X",
                       help="of the squared error beside the absolute one (default: 2)")
    vqgan.add_argument("--commitment", type=float, default=0.25, metavar="X",
                       help="weight of the term that holds latents to their codes (default: 0.25)")
    vqgan.add_argument("--codebook-rate", type=float, default=1.0, metavar="X",
                       help="its learning rate as a share of the rest's (default: 1)")
    vqgan.add_argument("--revive-every", type=int, default=50, metavar="STEPS",
                       help="steps between two looks for dead codes; 0: never (default: 50)")
    vqgan.add_argument("--revive-until", type=float, default=0.8, metavar="SHARE",
                       help="share of the run after which codes stay (default: 0.8)")
    vqgan.add_argument("--adversarial-weight", type=float, default=0.0, metavar="X",
                       help="of the patch discriminator; 0: none (default: 0)")
    vqgan.add_argument("--adversarial-start", type=int, default=1000, metavar="STEP",
                       help="where the discriminator's word begins to count (default: 1000)")


def _finetuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--random-crop", action="store_true", help="cut at random, not in the centre")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--output-dtype", choices=("fp32", "fp16", "bf16"), default="fp32",
                        help="numbers of the trained model in DIR/model (default: fp32)")


def _shared(parser: argparse.ArgumentParser, model: str) -> None:
    parser.add_argument("--data", required=True, metavar="TABLE_OR_FOLDER",
                        help="a TSV table, or a folder with metadata.jsonl")
    parser.add_argument("--model", required=True, metavar="BASE_OR_CONFIG", help=model)
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="the folder of the run: model, checkpoints, log.jsonl, training.json")
    parser.add_argument("--validation", metavar="TABLE_OR_FOLDER", help="what to judge the model by (default: nothing)")
    parser.add_argument("--output-layout", choices=("diffusers", "easynlp"), default="diffusers",
                        help="of the trained model (default: diffusers)")
    table = parser.add_argument_group("tables")
    table.add_argument("--input-schema", metavar="NAME:TYPE:LENGTH,...",
                       help="the columns (default: idx,text,imgbase64 or text,imgbase64, by the first row)")
    table.add_argument("--text-column", default="text", metavar="NAME", help="the column of the text (default: text)")
    table.add_argument("--image-column", default="imgbase64", metavar="NAME",
                       help="the column of the image (default: imgbase64)")
    table.add_argument("--skip-first-line", action="store_true", help="the first line is a header")
    table.add_argument("--encoding", default="utf-8", help="utf-8, gbk, gb18030, big5 ... (default: utf-8)")
    loop = parser.add_argument_group("training")
    loop.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: by --epochs)")
    loop.add_argument("--epochs", type=float, default=1.0, metavar="X", help="times through the table (default: 1)")
    loop.add_argument("--batch-size", type=int, default=8, metavar="N",
                      help="examples per process and forward pass (default: 8)")
    loop.add_argument("--accumulation", type=int, default=1, metavar="N", help="forward passes per step (default: 1)")
    loop.add_argument("--learning-rate", type=float, default=1e-4, metavar="X", help="the peak (default: 1e-4)")
    loop.add_argument("--warmup", type=int, default=0, metavar="STEPS",
                      help="in which the rate rises to its peak (default: 0)")
    loop.add_argument("--schedule", choices=("constant", "linear", "cosine"), default="constant",
                      help="of the rate after that (default: constant)")
    loop.add_argument("--final-rate", type=float, default=0.0, metavar="SHARE",
                      help="share of the peak at the end of a linear or cosine schedule (default: 0)")
    loop.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.95), metavar="X", help="of AdamW (default: 0.9 0.95)")
    loop.add_argument("--weight-decay", type=float, default=0.01, metavar="X",
                      help="on linear and convolution weights only (default: 0.01)")
    loop.add_argument("--clip", type=float, default=1.0, metavar="X", help="largest norm of the gradient (default: 1)")
    loop.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no", help="mixed precision (default: no)")
    loop.add_argument("--seed", type=int, default=0, metavar="N",
                      help="of first weights, dropout and the order of the rows (default: 0)")
    loop.add_argument("--log-every", type=int, default=50, metavar="STEPS", help="between two log lines (default: 50)")
    loop.add_argument("--save-every", type=int, default=500, metavar="STEPS", help="between two checkpoints (default: 500)")
    loop.add_argument("--keep", type=int, default=2, metavar="N", help="checkpoints to keep (default: 2)")
    loop.add_argument("--choose", choices=("last", "best"), default="last",
                      help="the weights in DIR/model: those of the last step, or of the lowest validation (default: last)")
    loop.add_argument("--validate-every", type=int, default=500, metavar="STEPS",
                      help="between two validations; the last step has one, too (default: 500)")
    loop.add_argument("--sample-every", type=int, default=0, metavar="STEPS",
                      help="between two sample pictures in DIR/samples; 0: never (default: 0)")
    loop.add_argument("--tensorboard", action="store_true", help="write what log.jsonl says to DIR/tensorboard, too")
    loop.add_argument("--resume", action="store_true",
                      help="go on from the newest checkpoint in DIR, if there is one, with the same table, model "
                      "and settings")


def run(args: argparse.Namespace) -> int | None:
    """Train, and say what was written."""
    from danqing.train.beginning import train
    from danqing.train.options import LoopOptions

    values = dict(vars(args))
    recipe = values.pop("recipe")
    values["betas"] = tuple(values["betas"])
    values["reading"] = {"schema": values.pop("input_schema"), **{name: values.pop(name) for name in (
        "text_column", "image_column", "skip_first_line", "encoding")}}
    loop = LoopOptions(**{each.name: values.pop(each.name) for each in fields(LoopOptions)})
    try:
        train(_options(recipe, values, loop))
    except KeyboardInterrupt:
        print(f"danqing: interrupted; the same command with --resume goes on after the last checkpoint in {args.output}.",
              file=sys.stderr)
        return 130
    if os.environ.get("RANK", "0") == "0":      # of several processes one speaks
        print(f"Wrote {args.output}/model.")
    return None


def _options(recipe: str, values: dict[str, Any], loop: LoopOptions) -> Options:
    from danqing.train.options import LatentOptions, PainterOptions, VqganOptions

    if recipe == "vqgan":
        return VqganOptions(**values, loop=loop)
    if recipe == "latent":
        return LatentOptions(**values, loop=loop)
    return PainterOptions(**{**values, "prompts": tuple(values["prompts"])}, loop=loop)
