"""Which pictures are drawn together, and who suffers from whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from danqing.serve.batching import Batcher, Job
from danqing.serve.served_model import Abandoned, Style

PLAIN = Style({})


class Draws:
    """Stands still until it is let go; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.abandoned = 0

    def __call__(self, style: Style, texts: Sequence[str], seeds: Sequence[int], wanted: Callable[[], bool]) -> list[Any]:
        self.batches.append(list(seeds))
        self.begun.release()
        while not self.go.acquire(timeout=0.005):
            if not wanted():
                self.abandoned += 1
                raise Abandoned
        if "bad" in texts:
            raise ValueError("bad")
        return [f"picture {seed}" for seed in seeds]


@pytest.fixture
def draws() -> Draws:
    return Draws()


@pytest.fixture
def make_batcher(draws: Draws) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(size: int = 4, coming: Callable[[], int] = lambda: 0, **options: Any) -> Batcher:
        made.append(Batcher(draws, size, coming, **options))
        return made[-1]

    yield make
    draws.go.release(1000)
    for batcher in made:
        batcher.close()
        assert batcher.join(30)


@pytest.fixture
def done() -> list[Job]:
    return []


@pytest.fixture
def job(done: list[Job]) -> Callable[..., Job]:
    def make(seed: int, count: int = 1, text: str = "text", style: Style = PLAIN) -> Job:
        return Job(text, style, seed, count, begun=lambda: None, done=done.append)

    return make


def test_what_waits_goes_together_and_what_differs_does_not(
    draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any
) -> None:
    batcher = make_batcher()
    batcher.put(job(0))
    assert draws.begun.acquire(timeout=30)
    other = Style({"top_k": 5})
    for each in (job(10), job(20, style=other), job(30), job(40, style=Style({"top_k": 5})), job(50)):
        batcher.put(each)
    draws.go.release(9)
    wait_until(lambda: len(done) == 6)
    assert draws.batches == [[0], [10, 30, 50], [20, 40]]


def test_a_request_for_many_pictures_takes_turns_and_shares_them(
    draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any
) -> None:
    batcher = make_batcher(size=4)
    batcher.put(job(0))
    assert draws.begun.acquire(timeout=30)
    batcher.put(job(10, count=6))
    batcher.put(job(20, count=2))
    draws.go.release(9)
    wait_until(lambda: len(done) == 3)
    assert draws.batches == [[0], [10, 11, 12, 13], [14, 15, 20, 21]]
    large = next(each for each in done if each.seed == 10)
    assert large.pictures == {index: f"picture {10 + index}" for index in range(6)}


def test_company_on_its_way_is_awaited(draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any) -> None:
    coming = [1]
    batcher = make_batcher(size=2, coming=lambda: coming[0], window=30.0)
    batcher.put(job(0))
    assert not draws.begun.acquire(timeout=0.1)
    batcher.put(job(10))
    assert draws.begun.acquire(timeout=25), "a full batch waits no longer"
    draws.go.release(2)
    wait_until(lambda: len(done) == 2)
    assert draws.batches == [[0, 10]]


def test_one_alone_waits_for_nobody(draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any) -> None:
    batcher = make_batcher(window=1000.0)
    for _ in range(2):
        done.clear()
        batcher.put(job(0))
        assert draws.begun.acquire(timeout=25)
        draws.go.release()
        wait_until(lambda: done)
        batcher.answered()


def test_a_window_ends_though_nobody_came(draws: Draws, make_batcher: Any, job: Any) -> None:
    batcher = make_batcher(coming=lambda: 1, window=0.02)
    batcher.put(job(0))
    assert draws.begun.acquire(timeout=30)


def test_the_one_at_fault_is_alone_with_its_error(
    draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any
) -> None:
    batcher = make_batcher(size=8)
    batcher.put(job(0))
    assert draws.begun.acquire(timeout=30)
    for seed in range(10, 60, 10):
        batcher.put(job(seed, text="bad" if seed == 30 else "good"))
    draws.go.release(99)
    wait_until(lambda: len(done) == 6)
    assert {each.seed: type(each.error) for each in done} == {
        0: type(None), 10: type(None), 20: type(None), 30: ValueError, 40: type(None), 50: type(None)}
    assert all(len(each.pictures) == 1 for each in done if each.error is None)


def test_one_error_is_enough_for_a_request_of_many(
    draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any
) -> None:
    batcher = make_batcher(size=4)
    draws.go.release(99)
    batcher.put(job(10, count=8, text="bad"))
    batcher.put(job(20))
    wait_until(lambda: len(done) == 2)
    assert [10, 11, 12, 13] in draws.batches and [14, 15, 16, 17] not in draws.batches


def test_who_leaves_the_queue_is_not_drawn(draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any) -> None:
    batcher = make_batcher()
    batcher.put(job(0))
    assert draws.begun.acquire(timeout=30)
    leaver = job(10)
    batcher.put(leaver)
    batcher.put(job(20))
    batcher.drop(leaver)
    draws.go.release(9)
    wait_until(lambda: len(done) == 2)
    assert draws.batches == [[0], [20]] and leaver not in done


def test_drawing_stops_once_all_have_left(draws: Draws, make_batcher: Any, job: Any, done: list[Job], wait_until: Any) -> None:
    batcher = make_batcher()
    batcher.put(job(0))
    assert draws.begun.acquire(timeout=30)
    first, second = job(10, count=2), job(20)
    batcher.put(first)
    batcher.put(second)
    draws.go.release()
    assert draws.begun.acquire(timeout=30)
    batcher.drop(first)
    assert not draws.begun.acquire(timeout=0.05) and draws.abandoned == 0, "the second still waits"
    batcher.drop(second)
    wait_until(lambda: draws.abandoned == 1)
    batcher.put(job(30))
    draws.go.release()
    wait_until(lambda: [each.seed for each in done] == [0, 30])


def test_closing_finishes_what_was_begun_and_names_the_rest(
    draws: Draws, make_batcher: Any, job: Any, done: list[Job]
) -> None:
    batcher = make_batcher(size=2)
    begun, waiting = job(0, count=3), job(10)
    batcher.put(begun)
    assert draws.begun.acquire(timeout=30)
    batcher.put(waiting)
    assert batcher.close() == [waiting]
    assert not batcher.put(job(20))
    draws.go.release(9)
    assert batcher.join(30)
    assert done == [begun] and len(begun.pictures) == 3
