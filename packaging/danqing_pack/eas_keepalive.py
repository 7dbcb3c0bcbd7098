"""How long a request for pictures may take on the machines that EAS lends."""

from __future__ import annotations

START_SECONDS = 30
"""Waiting in the queue, translating, packing the pictures."""
STEP_SECONDS = 1.0
"""One denoising step of one picture, at its slowest: 768 x 768 pixels in half precision on the smallest GPU lent."""


def needed_keepalive(steps: int, images: int) -> int:
    """Milliseconds that a request for so many pictures of so many steps may take, rounded up to ten seconds.

    The request of the documentation, one picture of 20 steps, gets the 50000 that the documentation sets.
    """
    seconds = START_SECONDS + STEP_SECONDS * max(steps, 1) * max(images, 1)
    return -int(-seconds // 10) * 10_000
