"""The service as a function of bytes: the small painter behind it, and a model of straw for what can go wrong."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from danqing.orders import SharedPipeline
from danqing.serve.contract import Reply
from danqing.serve.served_model import ServedModel
from danqing.serve.service import Service
from PIL import Image


def body(text: Any = "山水", **more: Any) -> bytes:
    return json.dumps({"text": text, **more}).encode()


def said(reply: Reply | tuple[bytes, int]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body if isinstance(reply, Reply) else reply[0])
    return found


def pictures(reply: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.urlsafe_b64decode(each))) for each in reply["images_base64"]]


class Later:
    """Replies as they come."""

    def __init__(self, service: Service) -> None:
        self.service, self.replies, self.tickets = service, [], []  # type: ignore[var-annotated]
        self._lock = threading.Lock()

    def ask(self, **wish: Any) -> Any:
        def deliver(reply: Reply) -> None:
            with self._lock:
                self.replies.append(reply)

        self.tickets.append(self.service.submit(body(**wish), deliver))
        return self.tickets[-1]

    def statuses(self) -> list[int]:
        return sorted(reply.status for reply in self.replies)


@pytest.fixture(scope="module")
def drawn(painter: ServedModel) -> list[Image.Image]:
    """What ``danqing generate --seed 5 --num-images 2`` draws."""
    [[images]] = SharedPipeline(painter.pipe, {}).draw("山水", num_images_per_prompt=2, seed=5)
    return images


def test_a_seed_gives_the_pictures_of_the_command_line(
    painter: ServedModel, make_service: Callable[..., Service], drawn: list[Image.Image]
) -> None:
    service = make_service(painter)
    answer, status = service.process(body(seed=5, num_images=2, num_inference_steps=20, use_blade=True))
    reply = json.loads(answer)
    assert status == 200 and reply["success"] is True and reply["error"] == "" and reply["text"] == "山水"
    assert reply["seed"] == 5 and reply["ignored"] == ["num_inference_steps"]
    found = pictures(reply)
    for ours, theirs in zip(found, drawn, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    texts = [each.text for each in found]  # type: ignore[attr-defined]
    assert [each["seed"] for each in texts] == ["5", "6"]
    assert all(each["prompt"] == "山水" for each in texts)


def test_a_picture_is_the_same_alone_and_among_others(
    painter: ServedModel, make_service: Callable[..., Service], drawn: list[Image.Image], wait_until: Any
) -> None:
    later = Later(make_service(painter, window=5.0, batch=3))
    with later.service.expecting():
        for seed, text in ((5, "山水"), (77, "一只猫"), (78, "花")):
            later.ask(text=text, seed=seed)
        wait_until(lambda: len(later.replies) == 3)
    assert "danqing_batch_pictures_sum 3" in later.service.metrics.text(0, True)
    assert "danqing_batch_pictures_count 1\n" in later.service.metrics.text(0, True)
    [mine] = [said(reply) for reply in later.replies if said(reply)["seed"] == 5]
    difference = np.abs(np.asarray(pictures(mine)[0]).astype(int) - np.asarray(drawn[0]))
    assert difference.max() <= 1


def test_running_out_of_memory_hurts_nobody_else(
    painter: ServedModel, make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    plain = painter.pipe.encode_prompt

    def encode(prompts: Any) -> Any:
        if any("巨大" in prompt for prompt in prompts):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(prompts)

    monkeypatch.setattr(painter.pipe, "encode_prompt", encode)
    later = Later(make_service(painter, window=5.0, batch=3))
    with later.service.expecting():
        for text in ("山", "巨大", "水"):
            later.ask(text=text)
        wait_until(lambda: len(later.replies) == 3)
    assert later.statuses() == [200, 200, 500]
    [failed] = [said(reply) for reply in later.replies if reply.status == 500]
    assert failed["text"] == "巨大" and "Memory ran out" in failed["error"] and failed["images_base64"] == []


def test_the_painter_stops_in_the_middle_of_a_picture(
    painter: ServedModel, make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    later = Later(make_service(painter))
    steps: list[int] = []
    reached, left = threading.Event(), threading.Event()
    sampling = "danqing.networks.sampling.Sampling.choose"
    from danqing.networks.sampling import Sampling

    plain = Sampling.choose

    def choose(self: Sampling, logits: Any, uniform: Any) -> Any:
        steps.append(1)
        if len(steps) == 10:
            reached.set()
            left.wait(30)
        return plain(self, logits, uniform)

    monkeypatch.setattr(sampling, choose)
    ticket = later.ask()
    assert reached.wait(30)
    assert ticket.cancel() and not ticket.cancel()
    left.set()
    later.ask(text="second", skip_translation=True)
    wait_until(lambda: later.replies)
    assert later.statuses() == [200] and said(later.replies[0])["text"] == "second"
    assert len(steps) == 10 + 256, "the first was not drawn to its end"


def test_text_that_is_not_chinese_gets_the_documented_answer(make_service: Callable[..., Service], straw: Any) -> None:
    service = make_service()
    reply = service.answer(body("a cat"))
    assert reply.status == 200
    assert said(reply)["success"] is False and said(reply)["images_base64"] == [] and "translator" in said(reply)["error"]
    assert straw.batches == []
    assert said(service.answer(body("a cat", skip_translation=True)))["text"] == "a cat"


def test_a_translator_is_asked_when_it_may_be(make_service: Callable[..., Service], straw: Any) -> None:
    service = make_service(translator=lambda text: "译" + text)
    assert said(service.answer(body("a cat")))["text"] == "译a cat"
    assert said(service.answer(body("一只猫")))["text"] == "一只猫"
    assert said(service.answer(body("a cat", skip_translation=True)))["text"] == "a cat"
    assert straw.batches == [["译a cat"], ["一只猫"], ["a cat"]]


def test_a_full_queue_is_said_at_once(make_service: Callable[..., Service], straw: Any, wait_until: Any) -> None:
    later = Later(make_service(queue=2, batch=1))
    later.ask(text="慢")
    assert straw.drawing.wait(30)
    later.ask()
    later.ask()
    assert later.service.is_full()
    later.ask()
    assert later.statuses() == [450] and "queue is full" in said(later.replies[0])["error"]
    straw.gate.set()
    wait_until(lambda: later.statuses() == [200, 200, 200, 450])
    assert later.service.waiting() == 0


def test_who_leaves_frees_a_place(make_service: Callable[..., Service], straw: Any, wait_until: Any) -> None:
    later = Later(make_service(queue=1, batch=1))
    running = later.ask(text="慢")
    assert straw.drawing.wait(30)
    waiting = later.ask()
    assert later.service.is_full()
    assert waiting.cancel()
    assert not later.service.is_full()
    assert running.cancel()
    wait_until(lambda: straw.abandoned == 1)
    later.ask()
    wait_until(lambda: later.statuses() == [200])


def test_past_keepalive_the_work_is_stopped(make_service: Callable[..., Service], straw: Any, wait_until: Any) -> None:
    service = make_service(keepalive=0.05)
    reply = service.answer(body("慢"))
    assert reply.status == 408 and said(reply)["success"] is False
    wait_until(lambda: straw.abandoned == 1)


def test_a_failure_names_its_kind_and_nothing_inside(
    make_service: Callable[..., Service], capfd: pytest.CaptureFixture[str]
) -> None:
    reply = make_service().answer(body("坏"))
    assert reply.status == 500
    assert "ValueError" in said(reply)["error"] and "a bad one" not in said(reply)["error"]
    assert "a bad one" in capfd.readouterr().err


def test_closing_finishes_what_was_begun(make_service: Callable[..., Service], straw: Any, wait_until: Any) -> None:
    later = Later(make_service(batch=1))
    later.ask(text="慢")
    assert straw.drawing.wait(30)
    later.ask()
    wait_until(lambda: later.service.waiting() == 1)
    closing = threading.Thread(target=later.service.close)
    closing.start()
    wait_until(lambda: later.statuses() == [503])
    straw.gate.set()
    closing.join(30)
    assert later.statuses() == [200, 503]
    later.ask()
    assert later.statuses() == [200, 503, 503]


def test_many_threads_many_requests(make_service: Callable[..., Service], straw: Any) -> None:
    """Every request gets its own picture, whatever it was drawn with."""
    service = make_service(queue=1000, batch=8, worker_threads=4)
    wrong: list[int] = []

    def client(first: int) -> None:
        for seed in range(first, first + 25):
            reply = said(service.answer(body(seed=seed)))
            if pictures(reply)[0].getpixel((0, 0)) != (seed % 256, 0, 0):
                wrong.append(seed)

    threads = [threading.Thread(target=client, args=(25 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and service.waiting() == 0
    assert sum(map(len, straw.batches)) == 200
