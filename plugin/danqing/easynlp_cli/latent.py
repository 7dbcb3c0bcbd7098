"""The latent diffusion behind --app_name=latent_diffusion.

The original gave a row for each image and wrote it beside whatever input row stood at the same place, so that with
n_samples above 1 most images were lost and the rest stood beside the wrong text. Here every image has its row, all
those of a text follow each other, and `gen_imgbase64` is base64 that can be decoded, not a Python bytes literal.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing_pack.errors import FormatError, RequestError
from danqing_pack.staging import staged_file

from danqing.easynlp_cli.machines import chosen_device, device_and_dtype, tell_missing_gpu

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

COLUMNS = ("idx", "text", "gen_imgbase64")

DRAWING: dict[str, Any] = {
    "n_samples": 4, "n_iter": 1, "scale": 5.0, "H": 256, "W": 256, "ddim_steps": 20, "ddim_eta": 0.0, "do_sr": False}
"""What the pictures depend on, with the original's defaults."""

PARAMETERS = {
    **{key: type(value) for key, value in DRAWING.items()}, "write_image": bool, "image_prefix": str,
    "pretrain_model_name_or_path": str, "size": int, "random_crop": bool, "text_len": int, "img_len": int,
    "not_use_gradient_checkpoint": bool, "reset_model_state_flag": bool,
}
"""The keys of --user_defined_parameters."""


def settings(args: argparse.Namespace, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the table depends on besides text, seed and checkpoint."""
    _refuse_pictures(args, parameters)
    _look(args.checkpoint_dir, parameters)
    return {**_drawing(parameters), "image_prefix": _prefix(parameters), **device_and_dtype(args)}


def rows_per_record(parameters: Mapping[str, Any]) -> int:
    """Images of a text: n_samples at once, n_iter times over."""
    drawing = _drawing(parameters)
    for key in ("n_samples", "n_iter"):
        if drawing[key] < 1:
            raise RequestError(f"--user_defined_parameters: {key} is at least 1, not {drawing[key]}.", key=key)
    return int(drawing["n_samples"] * drawing["n_iter"])


def inputs(parameters: Mapping[str, Any]) -> Sequence[str]:
    """Columns that are read besides --first_sequence and idx: none."""
    return ()


def checker(parameters: Mapping[str, Any]) -> Callable[[Mapping[str, str]], None]:
    """Any text can be drawn."""
    return lambda record: None


def predictor(args: argparse.Namespace, parameters: Mapping[str, Any]) -> LatentPredictor:
    """The checkpoint of a command line, ready to draw."""
    prefix = _prefix(parameters)
    pipe = load_latent_diffusion(args.checkpoint_dir, args, args.dtype)
    pipe.set_progress_bar_config(disable=True)
    return LatentPredictor(pipe, args.first_sequence, args.random_seed, _drawing(parameters), prefix)


class LatentPredictor:
    """Draws rows; see `danqing.easynlp_cli.predicting.Predictor`."""

    columns = COLUMNS

    def __init__(self, pipe: StableDiffusionPipeline, text_column: str, seed: int, drawing: Mapping[str, Any],
                 prefix: str | None) -> None:
        self._pipe, self._text_column, self._seed, self._drawing = pipe, text_column, seed, drawing
        self._prefix = prefix

    def rows(self, records: Sequence[Mapping[str, str]], first: int) -> list[dict[str, Any]]:
        from danqing.pipelines.latent_rows import predictor_rows

        images = self._drawing["n_samples"] * self._drawing["n_iter"]
        rows: list[dict[str, Any]] = []
        for number, record in enumerate(records, first):        # one by one: a row holds its pictures as floats, too
            drawn = predictor_rows(self._pipe, [record], self._text_column, seed=self._seed + number * images,
                                   **self._drawing)
            pngs = [bytes(row["gen_imgbase64"]) for row in drawn]
            if self._prefix is not None:
                self._write_images(record[self._text_column], pngs, number * self._drawing["n_iter"])
            rows += [{"idx": row["idx"], "text": row["text"], "gen_imgbase64": png.decode("ascii")}
                     for row, png in zip(drawn, pngs, strict=True)]
        return rows

    def _write_images(self, text: str, pngs: Sequence[bytes], first: int) -> None:
        """A folder for each iteration, `image_prefix` with a number: prompt.txt, 0000.png, 0001.png, ..."""
        size = self._drawing["n_samples"]
        for number, start in enumerate(range(0, len(pngs), size), first):
            folder = Path(f"{self._prefix}{number}")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RequestError(f"{folder} cannot be made: {error.strerror}.", path=folder) from error
            files = {"prompt.txt": f"{text}\n".encode()} | {
                f"{index:04}.png": base64.b64decode(png) for index, png in enumerate(pngs[start:start + size])}
            for name, content in files.items():
                with staged_file(folder / name, force=True) as file:
                    file.write_bytes(content)


def train(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """--mode=train."""
    from danqing.easynlp_cli import latent_training

    latent_training.train(args, parameters)


def evaluate(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """--mode=evaluate."""
    from danqing.easynlp_cli import latent_training

    latent_training.evaluate(args, parameters)


def load_latent_diffusion(path: str, args: argparse.Namespace, dtype: str) -> StableDiffusionPipeline:
    """A checkpoint as a pipeline."""
    from danqing.loading import load

    pipe: Any = load(path, device=chosen_device(args), dtype=dtype)
    require_family(path, getattr(pipe, "danqing_family", ""))
    tell_missing_gpu(args)
    return pipe         # type: ignore[no-any-return]


def require_family(path: str, family: str | None) -> None:
    """FormatError unless a checkpoint is a latent diffusion; None: that shows when it is loaded."""
    if family not in ("chinese-ldm", None):
        remedy = "--app_name=text2image_generation draws with it" if family == "painter" else "name another checkpoint"
        raise FormatError(f"{path} is no latent diffusion of EasyNLP: {remedy}.", path=path)


def _look(path: str, parameters: Mapping[str, Any]) -> None:
    """What can be refused before torch is loaded."""
    from danqing_pack.detection import detect

    from danqing.places import find_checkpoint

    place, drawing = find_checkpoint(path), _drawing(parameters)
    require_family(path, place.family)
    pixels = detect(place.path).dimensions.autoencoder.factor if place.family else 1
    for key in ("H", "W"):
        if drawing[key] < 1 or drawing[key] % pixels:
            raise RequestError(f"--user_defined_parameters: {key} {drawing[key]} is no multiple of {pixels}, the pixels of a "
                               "latent.", key=key)


def _refuse_pictures(args: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    prefix = _prefix(parameters)
    if prefix is not None and Path(f"{prefix}0").exists() and not (args.resume or args.force):
        raise RequestError(f"{prefix}0, where the first pictures would go, exists: name another image_prefix, or "
                           "replace them with --force.", path=f"{prefix}0")


def _drawing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return DRAWING | {key: parameters[key] for key in DRAWING if key in parameters}


def _prefix(parameters: Mapping[str, Any]) -> str | None:
    """Where pictures go as files, too; None: nowhere."""
    return str(parameters.get("image_prefix", "./")) if parameters.get("write_image", False) else None
