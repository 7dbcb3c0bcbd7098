"""The edge map is that of OpenCV, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from danqing.adapters.edges import canny
from safetensors.numpy import load_file

STEP = np.repeat(np.array([[0, 0, 0, 200, 200, 200]], np.uint8), 5, axis=0)


def test_a_step_gives_one_line() -> None:
    """Sobel of a step of 200 is 800 on both sides of it; of two equal neighbours the left one is the ridge."""
    assert np.array_equal(canny(STEP)[2], [0, 0, 255, 0, 0, 0])
    assert np.array_equal(canny(STEP.T)[:, 2], [0, 0, 255, 0, 0, 0])


def test_thresholds() -> None:
    assert canny(STEP, 100, 799).any()
    assert not canny(STEP, 100, 800).any()  # an edge starts above the threshold, not at it


def test_weak_edges_live_by_strong_ones() -> None:
    """A line that fades out is followed below the upper threshold, but not started there."""
    fading = np.zeros((40, 12), np.uint8)
    fading[:, 6:] = np.linspace(120, 30, 40).astype(np.uint8)[:, None]
    joined, alone = canny(fading, 100, 400), canny(fading[25:], 100, 400)
    assert joined[30].any() and not alone.any()


def test_the_steepest_channel_counts() -> None:
    coloured = np.stack([np.zeros_like(STEP), STEP, STEP // 8], axis=2)
    assert np.array_equal(canny(coloured), canny(STEP))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 3, 3)])
def test_small_and_flat_images(shape: tuple[int, ...]) -> None:
    assert not canny(np.full(shape, 128, np.uint8)).any()


@pytest.mark.parametrize("case", range(8))
def test_equal_to_opencv(request: pytest.FixtureRequest, case: int) -> None:
    """Maps of ``cv2.Canny`` (OpenCV 5.0.0) of random, blurred and stepped images."""
    cases = load_file(request.config.rootpath / "tests/golden/canny/opencv_5_0_0.safetensors")
    low, high = cases[f"{case}.thresholds"]
    assert np.array_equal(canny(cases[f"{case}.image"], int(low), int(high)), cases[f"{case}.edges"])
