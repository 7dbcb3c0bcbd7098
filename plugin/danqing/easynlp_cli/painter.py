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
    "max_generated_num": int, "top_k": int, "temperature": float, "vocab_path": str,
}
"""The keys of --user_defined_parameters; the last three are ours."""


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
    pipe: Any = load_painter(args.checkpoint_dir, args, parameters, args.dtype)
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


def train(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """--mode=train."""
    from danqing.easynlp_cli import painter_training

    painter_training.train(args, parameters)


def evaluate(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """--mode=evaluate."""
    from danqing.easynlp_cli import painter_training

    painter_training.evaluate(args, parameters)


def load_painter(path: str, args: argparse.Namespace, parameters: Mapping[str, Any], dtype: str) -> PainterPipeline:
    """A checkpoint as a pipeline; what the command line says otherwise than the checkpoint is told and not followed."""
    from danqing.loading import load

    device = _device(args)
    try:
        pipe: Any = load(path, device=device, dtype=dtype)
    except FormatError:
        if "text_len" not in parameters:
            raise
        pipe = load(path, device=device, dtype=dtype, text_length=parameters["text_len"])
    if getattr(pipe, "danqing_family", "") != "painter":
        raise FormatError(f"{path} is no painter: give its app_name, or another checkpoint.", path=path)
    if args.worker_gpu > 0 and pipe.device.type == "cpu":
        print("danqing: there is no GPU here; the CPU draws.", file=sys.stderr)
    config = pipe.transformer.config
    _tell({"text_len": config.text_length, "img_len": config.image_length, "img_vocab_size": config.image_vocab_size,
           "size": pipe.vqvae.config.sample_size}, parameters)
    return cast("PainterPipeline", pipe)


def tell_sizes(path: str, parameters: Mapping[str, Any]) -> int | None:
    """The same for a checkpoint that is not loaded yet; its text length, if its files leave that to text_len."""
    from danqing_pack.detection import detect

    from danqing.places import find_model

    place, length = find_model(path), None
    try:
        found = detect(place)
    except FormatError:
        length = parameters.get("text_len")
        found = detect(place, length)
    if found.family != "painter":
        raise FormatError(f"{path} is no painter: give its app_name, or another checkpoint.", path=path)
    size = found.dimensions
    _tell({"text_len": size.text_length, "img_len": size.image_length, "img_vocab_size": size.image_vocab_size,
           "size": size.image_size, "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width}, parameters)
    return length


def _tell(sizes: Mapping[str, int], parameters: Mapping[str, Any]) -> None:
    """EasyNLP had to be told what the checkpoint knows, and drew noise where it was told wrong."""
    for key, value in sizes.items():
        if parameters.get(key, value) != value:
            print(f"danqing: {key} is {value} in this checkpoint; {parameters[key]} is not followed.", file=sys.stderr)
