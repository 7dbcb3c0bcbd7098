"""Reads a picture of the small model by image analysis: background, shapes, colours, sizes and places.

It knows the palette and the grid of `drawing`, but judges shapes by formulas of its own (membership in the bounding
box), so it does not simply compare with what the drawing code would draw. NumPy only, no trained part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .drawing import BACKGROUNDS, COLOURS, PLACES, SIZES, Scene, Thing

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

UNKNOWN = "?"  # in place of a name that the picture does not show clearly
_COLOUR_TOLERANCE = 48.0  # RGB distance to a palette colour; half the distance of the nearest two is 49
_CONTRAST = 45.0  # RGB distance from which a pixel is no longer background
_SPECK = 10  # pixels; smaller spots are no things
_STRAY = 24  # pixels that are neither background, a thing nor the edge of one: more, and the picture is spoilt
_PLACE_TOLERANCE = 3.5  # pixels between the centre of the bounding box and the place
_OVERLAP = 0.70  # least overlap (intersection over union) with a shape; small sharp ones reach 0.87 when fresh
_LEAD = 0.06  # how far the best shape must lie before the second


def _star(x: Array, y: Array) -> Mask:
    """A pentagram: inside at least four of its five long lines."""
    height = 1.0 + np.cos(np.pi / 5)
    u, v = x * np.sin(2 * np.pi / 5), y * height / 2 + (height / 2 - 1.0)
    turns = np.arange(5) * 2 * np.pi / 5 - np.pi / 2
    inside = [u * np.cos(turn) + v * np.sin(turn) <= 0.35 for turn in turns]
    return np.asarray(np.sum(inside, axis=0) >= 4)


def _heart(x: Array, y: Array) -> Mask:
    u, v = x * 1.14, 0.11 - y * 1.12
    return np.asarray((u * u + v * v - 1.0) ** 3 - u * u * v**3 <= 0.0)


def _crescent(x: Array, y: Array) -> Mask:
    u = (x + 1.0) * 0.70  # distance from the left edge, in radii of the outer circle
    outer = (u - 1.0) ** 2 + y * y <= 1.0
    return outer & ((u - 1.5) ** 2 + y * y > 0.72)


#: shape -> membership of points of the bounding box, x and y in [-1, 1], y down
_FORMULAS: dict[str, Callable[[Array, Array], Mask]] = {
    "circle": lambda x, y: x * x + y * y <= 1.0,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 1.0,
    "triangle": lambda x, y: 2 * abs(x) <= y + 1.0,
    "star": _star,
    "diamond": lambda x, y: abs(x) + abs(y) <= 1.0,
    "heart": _heart,
    "cross": lambda x, y: np.minimum(abs(x), abs(y)) <= 0.35,
    "crescent": _crescent,
}
#: width / height, and the longer side / (2 * size)
_PROPORTIONS: dict[str, tuple[float, float]] = {
    "circle": (1.0, 0.97), "square": (1.0, 0.86), "triangle": (1.11, 1.0), "star": (1.05, 1.0), "diamond": (0.8, 1.0),
    "heart": (1.1, 1.0), "cross": (1.0, 0.95), "crescent": (0.72, 1.0),
}


@dataclass(frozen=True)
class Blob:
    """One connected spot of one colour: how much of each pixel it covers, [64, 64] in 0..1."""

    colour: str
    coverage: Array


def read(picture: Image.Image) -> Scene:
    """The scene that a 64 x 64 RGB picture shows; what is not clear is called `UNKNOWN`."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    ring = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3),
                           pixels[:, -2:].reshape(-1, 3)])
    ground = np.median(ring, axis=0).astype(np.float32)
    background = _named(ground, BACKGROUNDS)
    blobs, stray = _blobs(pixels, ground)
    things = tuple(sorted(_thing(blob) for blob in blobs))
    return Scene(UNKNOWN if stray > _STRAY else background, things)


def agrees(picture: Image.Image, says: Scene) -> bool:
    """Whether the picture shows what `says` names: as many things, each right; an empty name is free."""
    return matches(read(picture), says)


def matches(seen: Scene, says: Scene) -> bool:
    """Whether a scene that was read fulfils what a caption says; the order of things is free."""
    if len(seen.things) != len(says.things) or seen.background == UNKNOWN or says.background not in ("", seen.background):
        return False
    orders = [seen.things, seen.things[::-1]] if len(seen.things) == 2 else [seen.things]
    return any(all(_fulfils(thing, wish) for thing, wish in zip(order, says.things, strict=True)) for order in orders)


def _fulfils(thing: Thing, wish: Thing) -> bool:
    clear = UNKNOWN not in (thing.shape, thing.colour, thing.size, thing.place)
    return (clear and thing.shape == wish.shape and thing.colour == wish.colour
            and wish.size in ("", thing.size) and wish.place in ("", thing.place))


def _named(colour: Array, palette: Mapping[str, tuple[int, int, int]]) -> str:
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= _COLOUR_TOLERANCE else UNKNOWN


def _blobs(pixels: Array, ground: Array) -> tuple[list[Blob], int]:
    """The coloured spots, and the number of stray pixels.

    The colours come from flat places; an edge pixel belongs to the colour on whose way from the background it lies."""
    distance = np.linalg.norm(pixels - ground, axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(0, 1))
    flat = np.pad((windows.max(axis=(3, 4)) - windows.min(axis=(3, 4))).max(axis=2) < 40.0, 1)
    core = flat & (distance > _CONTRAST)
    cores: dict[str, list[Array]] = {}
    for colour in pixels[core]:
        cores.setdefault(_named(colour, COLOURS), []).append(colour)
    tones = {name: np.median(np.stack(found), axis=0) for name, found in cores.items() if len(found) >= 4}
    names = sorted(tones)
    if not names:
        return [], int((distance > _CONTRAST).sum())
    spans = np.stack([tones[name] for name in names]) - ground  # [colours, 3]
    share = np.einsum("hwc,kc->khw", pixels - ground, spans) / (spans**2).sum(1)[:, None, None]
    share = np.clip(share, 0.0, 1.0)
    rest = np.linalg.norm((pixels - ground)[None] - share[..., None] * spans[:, None, None], axis=3)
    nearest = rest.argmin(axis=0)
    stray = int((rest.min(axis=0) > 60.0).sum())
    blobs = []
    for index, name in enumerate(names):
        coverage = np.where((nearest == index) & (distance > _CONTRAST / 3), share[index], 0.0).astype(np.float32)
        for spot in _components(coverage > 0.5):
            if spot.sum() >= _SPECK:
                blobs.append(Blob(name, coverage * _grown(spot)))
    return blobs, stray


def _grown(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def _components(mask: Mask) -> list[Mask]:
    """Connected parts (eight neighbours), found by growing from one pixel at a time."""
    left, parts = mask.copy(), []
    while left.any():
        part = np.zeros_like(mask)
        part[tuple(np.argwhere(left)[0])] = True
        while True:
            grown = _grown(part) & left
            if (grown == part).all():
                break
            part = grown
        parts.append(part)
        left &= ~part
    return parts


def _extent(profile: Array) -> tuple[float, float]:
    """First and last edge of a spot in pixels, within a fraction of one: `profile` is the fullest coverage per line."""
    inside = np.flatnonzero(profile > 0.5)
    first, last = int(inside[0]), int(inside[-1])
    before = float(profile[first - 1]) if first else 0.0
    after = float(profile[last + 1]) if last + 1 < len(profile) else 0.0
    return first + 1.0 - float(profile[first]) - before, last + float(profile[last]) + after


def _thing(blob: Blob) -> Thing:
    top, bottom = _extent(blob.coverage.max(axis=1))
    left, right = _extent(blob.coverage.max(axis=0))
    width, height = right - left, bottom - top
    shape = _shape(blob.coverage, (left, top, width, height))
    place = min(PLACES, key=lambda name: _away(name, left + width / 2, top + height / 2))
    if _away(place, left + width / 2, top + height / 2) > _PLACE_TOLERANCE:
        place = UNKNOWN
    half = max(width, height) / 2 / _PROPORTIONS.get(shape, (1.0, 1.0))[1]
    size = min(SIZES, key=lambda name: abs(SIZES[name] - half))
    return Thing(shape, blob.colour, size if abs(SIZES[size] - half) < 2.0 else UNKNOWN, place)


def _away(place: str, x: float, y: float) -> float:
    return float(np.hypot(PLACES[place][0] - x, PLACES[place][1] - y))


def _shape(coverage: Array, box: tuple[float, float, float, float]) -> str:
    """The shape whose formula overlaps most, less a little where the proportions of the box are another shape's."""
    left, top, width, height = box
    fine = (np.arange(coverage.shape[0] * 4, dtype=np.float32) + 0.5) / 4
    x, y = (part.astype(np.float32) for part in np.meshgrid((fine - left) / width * 2 - 1,
                                                            (fine - top) / height * 2 - 1))
    inside = np.maximum(abs(x), abs(y)) <= 1.0
    scores = {}
    for name, formula in _FORMULAS.items():
        blocks = (formula(x, y) & inside).reshape(coverage.shape[0], 4, coverage.shape[1], 4)
        wanted = blocks.mean(axis=(1, 3))
        overlap = float(np.minimum(wanted, coverage).sum() / np.maximum(wanted, coverage).sum())
        scores[name] = overlap - 0.25 * abs(float(np.log(width / height / _PROPORTIONS[name][0])))
    second, best = sorted(scores, key=scores.__getitem__)[-2:]
    clear = scores[best] >= _OVERLAP and scores[best] - scores[second] >= _LEAD
    return best if clear else UNKNOWN
