"""The Canny edge map, in NumPy alone.

The same steps and the same integer arithmetic as ``cv2.Canny(image, low, high)`` with its defaults (Sobel 3 x 3, L1
norm, replicated border), which is what the canny ControlNets were trained on, so that the maps are equal bit for bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TANGENT_22 = 13573
"""tan(22.5 degrees) with 15 fractional bits."""


def canny(image: npt.NDArray[np.uint8], low: int = 100, high: int = 200) -> npt.NDArray[np.uint8]:
    """The edges of ``image`` [H, W] or [H, W, channels], uint8, as a map [H, W] of 0 and 255.

    A pixel whose gradient is over ``high`` starts an edge, one over ``low`` continues it. Where there are several
    channels, each pixel takes the one with the steepest gradient.
    """
    across, down = _gradients(image[..., None] if image.ndim == 2 else image)
    steepness = np.abs(across) + np.abs(down)
    steepest = steepness.argmax(axis=2)[..., None]
    across, down, steepness = (
        np.take_along_axis(values, steepest, axis=2)[..., 0] for values in (across, down, steepness)
    )
    ridge = _ridges(across, down, steepness) & (steepness > low)
    return _connected(ridge & (steepness > high), ridge).astype(np.uint8) * np.uint8(255)


def _gradients(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Sobel derivatives, left to right and top to bottom."""
    padded = np.pad(image.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    tall = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    wide = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return tall[:, 2:] - tall[:, :-2], wide[2:] - wide[:-2]


def _ridges(
    across: npt.NDArray[np.int32], down: npt.NDArray[np.int32], steepness: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Where the gradient is largest along its own direction; of two equal neighbours the first one counts."""
    around = np.pad(steepness, 1)
    left, right = around[1:-1, :-2], around[1:-1, 2:]
    above, below = around[:-2, 1:-1], around[2:, 1:-1]
    width, height = np.abs(across).astype(np.int64), np.abs(down).astype(np.int64) << 15
    flat = height < width * TANGENT_22
    steep = height > width * TANGENT_22 + (width << 16)
    falling = (across < 0) == (down < 0)
    before = np.where(falling, around[:-2, :-2], around[:-2, 2:])
    after = np.where(falling, around[2:, 2:], around[2:, :-2])
    return np.where(
        flat,
        (steepness > left) & (steepness >= right),
        np.where(steep, (steepness > above) & (steepness >= below), (steepness > before) & (steepness > after)),
    )


def _connected(seeds: npt.NDArray[np.bool_], ridge: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of ``ridge`` that a chain of neighbours, diagonals included, joins to a seed."""
    row = ridge.shape[1] + 2
    steps = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    waiting = np.pad(ridge & ~seeds, 1).ravel()
    found = np.pad(seeds, 1).ravel()
    front = np.flatnonzero(found)
    while front.size:
        near = (front[:, None] + steps).ravel()
        front = np.unique(near[waiting[near]])
        waiting[front] = False
        found[front] = True
    edges: npt.NDArray[np.bool_] = found.reshape(-1, row)[1:-1, 1:-1]
    return edges
