"""The painter behind --app_name=text2image_generation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from danqing_pack.errors import FormatError

if TYPE_CHECKING:
    from danqing.pipelines.painter import PainterPipeline

COLUMNS = ("idx", "text", "gen_imgbase64")

PARAMETERS = {
    "pretrain_model_name_or_path": str, "vqgan_ckpt_path": str, "size": int, "random_crop": bool, "text_len": int,
    "img_len": int, "img_vocab_size": int, "text_vocab_size": int, "n_layer": int, "n_head": int, "n_embd": int,
    "max_generated_num": int, "top_k": int, "temperature": float,
}
"""The keys of --user_defined_parameters; the last two are ours."""


def settings(args: argparse.Namespace, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the pictures depend on besides text, seed and checkpoint."""
    from danqing.devices import resolve_device, resolve_dtype

    device = resolve_device(_device(args))
    return {**_drawing(parameters), "device": device.type, "dtype": str(resolve_dtype(args.dtype, device))}


def _drawing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_generated_num": 1, "top_k": 100, "temperature": 1.0} | {
        key: parameters[key] for key in ("max_generated_num", "top_k", "temperature") if key in parameters}


def _device(args: argparse.Namespace) -> str:
    return "cpu" if args.worker_gpu == 0 else str(args.device)


def predictor(args: argparse.Namespace, parameters: Mapping[str, Any]) -> PainterPredictor:
    """The checkpoint of a command line, ready to draw."""
    pipe: Any = load_painter(args.checkpoint_dir, args, parameters)
    pipe.set_progress_bar_config(disable=True)
    return PainterPredictor(pipe, args.first_sequence, args.random_seed, _drawing(parameters))


class PainterPredictor:
    """Draws rows; see `danqing.easynlp_cli.predicting.Predictor`."""

    columns = COLUMNS

    def __init__(self, pipe: PainterPipeline, text_column: str, seed: int, drawing: Mapping[str, Any]) -> None:
        self._pipe, self._text_column, self._seed, self._drawing = pipe, text_column, seed, drawing

    def rows(self, records: Sequence[dict[str, str]], first: int) -> list[dict[str, Any]]:
        from danqing.pipelines.rows import predictor_rows

        images = self._drawing["max_generated_num"]
        return predictor_rows(self._pipe, records, self._text_column, seed=self._seed + first * images,
                              batch_size=len(records) * images, **self._drawing)


def load_painter(path: str, args: argparse.Namespace, parameters: Mapping[str, Any]) -> PainterPipeline:
    """A checkpoint as a pipeline; what the command line says otherwise than the checkpoint is told and not followed."""
    from danqing.loading import load

    device = _device(args)
    try:
        pipe: Any = load(path, device=device, dtype=args.dtype)
    except FormatError:
        if "text_len" not in parameters:
            raise
        pipe = load(path, device=device, dtype=args.dtype, text_length=parameters["text_len"])
    if getattr(pipe, "danqing_family", "") != "painter":
        raise FormatError(f"{path} is no painter: give its app_name, or another checkpoint.", path=path)
    if args.worker_gpu > 0 and pipe.device.type == "cpu":
        print("danqing: there is no GPU here; the CPU draws.", file=sys.stderr)
    config = pipe.transformer.config
    for key, value in (("text_len", config.text_length), ("img_len", config.image_length),
                       ("img_vocab_size", config.image_vocab_size), ("size", pipe.vqvae.config.sample_size)):
        if parameters.get(key, value) != value:
            print(f"danqing: {key} is {value} in this checkpoint; {parameters[key]} is not followed.", file=sys.stderr)
    return cast("PainterPipeline", pipe)
