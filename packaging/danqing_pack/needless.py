"""Which weights of a repository nobody opens: the same network often lies there several times.

A diffusers folder opens one file, or one set of shards, in each component's folder, safetensors before pickles and full
precision before a variant; weights at its top belong to another layout. ``layouts.diffusers`` reads by the same rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .layouts.diffusers import INDEX, PICKLED, SAFE

TOP = (".ckpt", ".safetensors", ".bin", ".pt", ".pth", ".onnx", ".msgpack", ".h5")
"""Endings of weights of other layouts, beside an index."""
WEIGHTS = (".safetensors", ".bin", ".msgpack", ".h5", ".onnx", ".safetensors.index.json", ".bin.index.json")
"""Endings of weights in a component's folder."""

ENDINGS = tuple(sorted({*TOP, *WEIGHTS}))
"""Of all files that may be needless."""


def needless(names: Collection[str]) -> frozenset[str]:
    """Those of the files of a repository that are weights which no reader opens; none where there is no index."""
    if INDEX not in names:
        return frozenset()
    folders: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, set()).add(file)
    top = folders.pop("", set())
    found = {name for name in top if name.endswith(ENDINGS)}
    for folder, files in folders.items():
        if "/" not in folder and folder != "legacy":
            found |= {f"{folder}/{file}" for file in _other_weights(files)}
    return frozenset(found)


def _other_weights(files: Collection[str]) -> set[str]:
    """Of the files in a component's folder, the weights that are not opened; none where it is not clear which are."""
    opened = set(_opened(files))
    return {file for file in files if file.endswith(WEIGHTS)} - opened if opened else set()


def _opened(files: Collection[str]) -> Iterable[str]:
    for name in SAFE:
        if name in files:
            return (name,)
    indexes = sorted(name for name in files if name.endswith(".index.json"))
    if indexes:
        index = min(indexes, key=lambda name: ".safetensors" not in name)
        ending = ".safetensors" if ".safetensors" in index else ".bin"
        return (index, *(name for name in files if name.endswith(ending)))
    return next(((name,) for name in PICKLED if name in files), ())
