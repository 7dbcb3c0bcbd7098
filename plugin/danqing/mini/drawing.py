"""Draws the pictures that the small model learns: flat shapes on a plain background, 64 x 64 pixels.

A scene is a value: a background and one or two things, each with a shape, a colour, a size and a place. Its picture
is fixed by the scene. Places and sizes fall on the 8-pixel grid of the first stage, so a shape has the same codes
wherever it stands.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

IMAGE_SIZE = 64
Point = tuple[float, float]

#: name -> RGB of things
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40), "yellow": (252, 220, 50), "green": (30, 160, 70),
    "blue": (40, 85, 210), "purple": (150, 60, 175), "pink": (240, 105, 165), "black": (25, 25, 30),
    "white": (250, 250, 250),
}
#: name -> RGB of backgrounds; softer than a thing of the same name, and never under one
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250), "black": (25, 25, 30), "blue": (105, 170, 242), "green": (145, 215, 145),
    "yellow": (250, 230, 140), "pink": (245, 180, 195),
}
#: half the side of the square that a shape fills, in pixels
SIZES: dict[str, float] = {"small": 8.0, "big": 14.5}
#: centre in pixels (x, y)
PLACES: dict[str, tuple[int, int]] = {
    "centre": (32, 32), "left": (16, 32), "right": (48, 32), "top": (32, 16), "bottom": (32, 48),
    "top left": (16, 16), "top right": (48, 16), "bottom left": (16, 48), "bottom right": (48, 48),
}
#: where two things stand together: they never touch, whatever their sizes
PAIRS: tuple[tuple[str, str], ...] = (
    ("left", "right"), ("top", "bottom"), ("top left", "bottom right"), ("top right", "bottom left"),
)


@dataclass(frozen=True, order=True)
class Thing:
    """One shape: names from `SHAPES`, `COLOURS`, `SIZES` and `PLACES`."""

    shape: str
    colour: str
    size: str = "big"
    place: str = "centre"


@dataclass(frozen=True)
class Scene:
    """A background (a name from `BACKGROUNDS`) and one or two things; two things stand at one of `PAIRS`."""

    background: str
    things: tuple[Thing, ...]


def _arc(radius: float, start: float, stop: float, centre: Point = (0.0, 0.0), steps: int = 48) -> list[Point]:
    angles = (start + (stop - start) * step / steps for step in range(steps + 1))
    return [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)) for angle in angles]


def _star() -> list[Point]:
    radii = (1.06, 0.45)
    turns = [(radii[corner % 2], math.pi * corner / 5 - math.pi / 2) for corner in range(10)]
    return [(radius * math.cos(angle), 0.06 + radius * math.sin(angle)) for radius, angle in turns]


def _heart() -> list[Point]:
    turns = [math.tau * step / 96 for step in range(96)]
    heights = (5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t) for t in turns)
    return [(math.sin(t) ** 3, (height - 2.5) / 16) for t, height in zip(turns, heights, strict=True)]


def _crescent() -> list[Point]:
    """The outer circle to the left of a circle of radius 0.85 that is moved 0.5 to the right."""
    radius, shift = 0.85, 0.5
    cosine = (1.0 - radius * radius + shift * shift) / (2 * shift)  # where the circles meet, on the outer one
    outer = math.acos(cosine)
    inner = math.acos((cosine - shift) / radius)
    points = _arc(1.0, outer, math.tau - outer) + _arc(radius, math.tau - inner, inner, (shift, 0.0))
    middle = (cosine - 1.0) / 2
    return [(x - middle, y) for x, y in points]


def _cross() -> list[Point]:
    arm, end = 0.33, 0.95
    return [(-arm, -end), (arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm),
            (arm, end), (-arm, end), (-arm, arm), (-end, arm), (-end, -arm), (-arm, -arm)]


#: outline of each shape, in units of half the size; x right, y down
SHAPES: dict[str, tuple[Point, ...]] = {
    "circle": tuple(_arc(0.97, 0.0, math.tau)),
    "square": ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
    "triangle": ((0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)),
    "star": tuple(_star()),
    "diamond": ((0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)),
    "heart": tuple(_heart()),
    "cross": tuple(_cross()),
    "crescent": tuple(_crescent()),
}


def draw(scene: Scene, oversampling: int = 8) -> Image.Image:
    """RGB picture of 64 x 64 pixels; edges are smoothed by drawing `oversampling` times larger and averaging."""
    large = Image.new("RGB", (IMAGE_SIZE * oversampling,) * 2, BACKGROUNDS[scene.background])
    brush = ImageDraw.Draw(large)
    for thing in scene.things:
        (x0, y0), half = PLACES[thing.place], SIZES[thing.size]
        outline = [((x0 + half * x) * oversampling - 0.5, (y0 + half * y) * oversampling - 0.5)
                   for x, y in SHAPES[thing.shape]]
        brush.polygon(outline, fill=COLOURS[thing.colour])
    return large.reduce(oversampling)


def random_scene(rng: random.Random, things: int) -> Scene:
    """A scene of one or two things, every choice uniform; colours differ from the background and from each other."""
    background = rng.choice(sorted(BACKGROUNDS))
    colours = rng.sample([colour for colour in COLOURS if colour != background], things)
    places = rng.choice(PAIRS) if things == 2 else (rng.choice(sorted(PLACES)),)
    shapes, sizes = sorted(SHAPES), sorted(SIZES)
    return Scene(background, tuple(Thing(rng.choice(shapes), colour, rng.choice(sizes), place)
                                   for colour, place in zip(colours, places, strict=True)))


def combination(scene: Scene) -> str:
    """What counts as one combination: the background, and shape, colour and place of every thing, whatever the size."""
    things = sorted(f"{thing.shape} {thing.colour} {thing.place}" for thing in scene.things)
    return " | ".join([scene.background, *things])


def held_out(scene: Scene) -> bool:
    """Whether the scene belongs to the tenth of all combinations that training never sees."""
    return hashlib.sha256(combination(scene).encode()).digest()[0] < 26
