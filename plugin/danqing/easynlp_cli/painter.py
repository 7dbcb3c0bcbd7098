"""The painter behind --app_name=text2image_generation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from danqing_pack.errors import FormatError, RequestError

from danqing.easynlp_cli.machines import chosen_device, device_and_dtype, tell_missing_gpu

if TYPE_CHECKING:
    from danqing.pipelines.painter import PainterPipeline
    from danqing.train.entities import EntityVectors

COLUMNS = ("idx", "text", "gen_imgbase64")

PARAMETERS = {
    "pretrain_model_name_or_path": str, "vqgan_ckpt_path": str, "size": int, "random_crop": bool, "text_len": int,
    "img_len": int, "img_vocab_size": int, "text_vocab_size": int, "n_layer": int, "n_head": int, "n_embd": int,
    "entity_emb_path": str, "entity_num": int, "max_generated_num": int, "top_k": int, "temperature": float,
    "vocab_path": str,
}
"""The keys of --user_defined_parameters; the last three are ours."""


def settings(args: argparse.Namespace, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the pictures depend on besides text, seed and checkpoint."""
    from danqing.easynlp_cli.predicting import fingerprint

    find_painter(args.checkpoint_dir, parameters)
    vectors = open_entities(parameters)
    knowledge = {} if vectors is None else {"entity_emb_path": fingerprint(str(vectors.path)),
                                            "entity_num": vectors.count}
    return {**_drawing(parameters), **knowledge, **device_and_dtype(args)}


def rows_per_record(parameters: Mapping[str, Any]) -> int:
    """All images of a text stand in one row."""
    if parameters.get("max_generated_num", 1) < 1:
        raise RequestError(f"--user_defined_parameters: max_generated_num is at least 1, not "
                           f"{parameters['max_generated_num']}.", key="max_generated_num")
    return 1


def inputs(parameters: Mapping[str, Any]) -> Sequence[str]:
    """The columns that name entities, for the knowledge variant."""
    if "entity_emb_path" not in parameters:
        return ()
    from danqing.train.entities import COLUMNS as KNOWLEDGE

    return KNOWLEDGE


def checker(parameters: Mapping[str, Any]) -> Callable[[Mapping[str, str]], None]:
    """Entities must be readable and have vectors."""
    vectors = open_entities(parameters)
    if vectors is None:
        return lambda record: None
    from danqing.train.entities import spans_of

    return lambda record: vectors.check(spans_of(record))


def open_entities(parameters: Mapping[str, Any]) -> EntityVectors | None:
    """The matrix that entity_emb_path names. Raises FormatError and RequestError."""
    if "entity_emb_path" not in parameters:
        if "entity_num" in parameters:
            raise RequestError("--user_defined_parameters: entity_num counts entities of entity_emb_path, which is "
                               "missing.")
        return None
    from danqing.train.options import ENTITIES

    count = parameters.get("entity_num", ENTITIES)
    if count < 1:
        raise RequestError(f"--user_defined_parameters: entity_num is at least 1, not {count}.")
    from danqing.train.entities import EntityVectors

    return EntityVectors(parameters["entity_emb_path"], count)


def _drawing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_generated_num": 1, "top_k": 100, "temperature": 1.0} | {
        key: parameters[key] for key in ("max_generated_num", "top_k", "temperature") if key in parameters}


def predictor(args: argparse.Namespace, parameters: Mapping[str, Any]) -> PainterPredictor:
    """The checkpoint of a command line, ready to draw."""
    vectors = open_entities(parameters)
    pipe: Any = load_painter(args.checkpoint_dir, args, parameters, args.dtype)
    pipe.set_progress_bar_config(disable=True)
    match_entities(vectors, pipe, args.checkpoint_dir)
    return PainterPredictor(pipe, args.first_sequence, args.random_seed, _drawing(parameters), vectors)


class PainterPredictor:
    """Draws rows; see `danqing.easynlp_cli.predicting.Predictor`."""

    columns = COLUMNS

    def __init__(self, pipe: PainterPipeline, text_column: str, seed: int, drawing: Mapping[str, Any],
                 vectors: EntityVectors | None = None) -> None:
        self._pipe, self._text_column, self._seed, self._drawing = pipe, text_column, seed, drawing
        self._vectors = vectors

    def rows(self, records: Sequence[dict[str, str]], first: int) -> list[dict[str, Any]]:
        from danqing.pipelines.rows import predictor_rows

        images = self._drawing["max_generated_num"]
        return predictor_rows(self._pipe, records, self._text_column, seed=self._seed + first * images,
                              batch_size=len(records) * images, **self._drawing, **self._knowledge(records))

    def _knowledge(self, records: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        from danqing.train.entities import spans_of

        if self._vectors is None:
            return {}
        return {**self._vectors.knowledge(map(spans_of, records), self._pipe.transformer.config.text_length)}


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

    device = chosen_device(args)
    try:
        pipe: Any = load(path, device=device, dtype=dtype)
    except FormatError:
        if "text_len" not in parameters:
            raise
        pipe = load(path, device=device, dtype=dtype, text_length=parameters["text_len"])
    if getattr(pipe, "danqing_family", "") != "painter":
        raise _no_painter(path, getattr(pipe, "danqing_family", ""))
    tell_missing_gpu(args)
    config = pipe.transformer.config
    _tell({"text_len": config.text_length, "img_len": config.image_length, "img_vocab_size": config.image_vocab_size,
           "size": pipe.vqvae.config.sample_size}, parameters)
    return cast("PainterPipeline", pipe)


def match_entities(vectors: EntityVectors | None, pipe: PainterPipeline, model: str) -> None:
    """FormatError for vectors that the painter cannot read; a painter that is given none is told of."""
    width = pipe.transformer.config.entity_dim
    if vectors is not None:
        vectors.require_width(width, model)
    elif width:
        print(f"danqing: {model} knows entities, but no entity_emb_path names their vectors: the text alone counts.",
              file=sys.stderr)


def find_painter(path: str, parameters: Mapping[str, Any]) -> int | None:
    """A look at a checkpoint before torch is loaded; its text length, if its files leave that to text_len."""
    from danqing.places import find_checkpoint

    length = None
    try:
        family = find_checkpoint(path).family
    except FormatError:
        length = parameters.get("text_len")
        if length is None:
            raise
        family = find_checkpoint(path, length).family
    if family not in ("painter", None):
        raise _no_painter(path, family)
    return length


def _no_painter(path: str, family: str | None) -> FormatError:
    remedy = "--app_name=latent_diffusion draws with it" if family == "chinese-ldm" else "name another checkpoint"
    return FormatError(f"{path} is no painter: {remedy}.", path=path)


def tell_sizes(path: str, parameters: Mapping[str, Any]) -> int | None:
    """What the command line says otherwise than a checkpoint that is not loaded yet; the length of `find_painter`."""
    from danqing_pack.detection import detect

    from danqing.places import find_model

    length = find_painter(path, parameters)
    found = detect(find_model(path), length)
    if found.family != "painter":
        raise _no_painter(path, found.family)
    size = found.dimensions
    _tell({"text_len": size.text_length, "img_len": size.image_length, "img_vocab_size": size.image_vocab_size,
           "size": size.image_size, "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width}, parameters)
    return length


def _tell(sizes: Mapping[str, int], parameters: Mapping[str, Any]) -> None:
    """EasyNLP had to be told what the checkpoint knows, and drew noise where it was told wrong."""
    for key, value in sizes.items():
        if parameters.get(key, value) != value:
            print(f"danqing: {key} is {value} in this checkpoint; {parameters[key]} is not followed.", file=sys.stderr)
