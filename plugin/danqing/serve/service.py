"""The service without HTTP: bytes of a JSON request in, bytes of a JSON reply and a status out.

    service = Service(ServedModel(danqing.load(path)), queue=64, batch=8, keepalive=300.0)
    service.warm_up()                              # draws one picture; optional
    body, status = service.process(data)           # blocks; any number of threads may call it
    reply = service.answer(data)                   # the same as a Reply(status, body, images)
    ticket = service.submit(data, deliver)         # does not block: ``deliver(reply)`` is called once, from some
                                                   # thread, maybe before submit returns
    ticket.cancel()                                # frees its place and stops the drawing; deliver will not be called
    service.close()                                # begun requests are finished, the rest get 503

``answer``, ``process`` and ``submit`` never raise for what a request says: every problem is a reply with ``success``
false and a sentence in ``error``. Status codes are those of PAI-EAS: 200, 400 (bad request), 408 (past ``keepalive``
seconds; the work is stopped), 413, 450 (queue full), 499 (cancelled), 500, and 503 once closed.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from danqing_pack.errors import DanqingError

from .batching import WINDOW, Batcher, Job
from .contract import REASONS, Limits, Refusal, Reply, Request, drawn, read, refused
from .metrics import Metrics
from .pictures import encoded
from .served_model import ServedModel
from .translation import Translator, chinese

Deliver = Callable[[Reply], None]


class Service:
    """A model that answers requests, several at a time.

    Args:
        model: the loaded model.
        limits: what one request may ask for.
        translator: makes text Chinese that is not; without one such requests get ``success`` false.
        queue: requests that may wait to be drawn; one more gets 450 at once.
        batch: pictures drawn together; 1 turns batching off.
        keepalive: seconds from ``answer`` to 408; None: no end.
        worker_threads: threads that read requests and pack pictures, beside the one that draws.
    """

    def __init__(
        self, model: ServedModel, limits: Limits | None = None, *, translator: Translator | None = None,
        queue: int = 64, batch: int = 8, keepalive: float | None = 300.0, worker_threads: int = 2,
        window: float = WINDOW, metrics: Metrics | None = None,
    ) -> None:
        self.model, self.limits, self.keepalive = model, limits or Limits(), keepalive
        self.metrics = metrics or Metrics()
        self._translator, self._queue = translator, queue
        self._lock = threading.Lock()
        self._waiting = self._arriving = 0
        self._closed = False
        self._workers = ThreadPoolExecutor(worker_threads, thread_name_prefix="danqing-serve")
        self._batcher = Batcher(model.draw, batch, lambda: self._arriving, self.metrics.batch, window)

    def submit(self, body: bytes, deliver: Deliver) -> Ticket:
        """Begin to answer; ``deliver`` gets the reply, once, unless the ticket is cancelled first."""
        ticket = Ticket(self, deliver)
        with self._lock:
            status = 503 if self._closed else 450 if self._waiting >= self._queue else 0
            if not status:
                ticket.waits = True
                self._waiting += 1
                self._workers.submit(self._read, body, ticket)
        if status:
            ticket.end(refused(Refusal(status, REASONS[status])))
        return ticket

    def answer(self, body: bytes) -> Reply:
        """The reply to a request; blocks until it is there, or for ``keepalive`` seconds."""
        arrived, replies = threading.Event(), []

        def deliver(reply: Reply) -> None:
            replies.append(reply)
            arrived.set()

        ticket = self.submit(body, deliver)
        if not arrived.wait(self.keepalive) and ticket.cancel():
            return refused(Refusal(408, REASONS[408]))
        arrived.wait()
        return replies[0]

    def process(self, data: bytes) -> tuple[bytes, int]:
        """What a python processor of PAI-EAS returns: the reply's bytes and its status."""
        reply = self.answer(data)
        return reply.body, reply.status

    def waiting(self) -> int:
        """Requests that wait to be drawn."""
        return self._waiting

    def is_full(self) -> bool:
        """Whether one more request would get 450."""
        return self._waiting >= self._queue

    def warm_up(self) -> None:
        """Draw one picture that nobody sees."""
        self.model.warm_up()

    def close(self, seconds: float | None = None) -> bool:
        """Finish what was begun, answer the rest with 503; whether all was done within ``seconds``."""
        with self._lock:
            self._closed = True
        for job in self._batcher.close():
            job.error = Refusal(503, REASONS[503])
            job.done(job)
        done = self._batcher.join(seconds)
        self._workers.shutdown(wait=done)
        return done

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While the block runs, a request is on its way here: what already waits may wait a moment for it."""
        with self._lock:
            self._arriving += 1
        try:
            yield
        finally:
            with self._lock:
                self._arriving -= 1

    def left_queue(self) -> None:
        """A ticket gives its place free."""
        with self._lock:
            self._waiting -= 1

    def drop(self, job: Job) -> None:
        """Nobody waits for this job any more."""
        self._batcher.drop(job)

    def _read(self, body: bytes, ticket: Ticket) -> None:
        """In a worker: from bytes to a job in the queue."""
        text = ""
        try:
            with self.expecting():
                if ticket.ended:
                    return
                request = read(body, self.model.takes, self.limits)
                text = request.text
                text = chinese(text, request.skip_translation, self._translator)
                job = self._job(request, text, ticket)
            self._put(job, ticket)
        except Refusal as refusal:
            ticket.end(refused(refusal, text))
        except Exception as error:  # a fault of ours must not leave a client waiting
            ticket.end(_fault(error, text))

    def _job(self, request: Request, text: str, ticket: Ticket) -> Job:
        negative = request.given.get("negative_prompt")
        if negative and self._translator is not None and not request.skip_translation:
            negative = chinese(negative, False, self._translator)
            request = replace(request, given={**request.given, "negative_prompt": negative})
        style = self.model.style(request, self.limits)

        def done(job: Job) -> None:
            self._workers.submit(self._pack, request, job, ticket)

        return Job(text, style, request.seed, request.num_images, begun=ticket.leave_queue, done=done)

    def _put(self, job: Job, ticket: Ticket) -> None:
        ticket.job = job
        if not self._batcher.put(job):
            ticket.end(refused(Refusal(503, REASONS[503]), job.text))
        elif ticket.ended:  # cancelled while it had no job to drop
            self._batcher.drop(job)

    def _pack(self, request: Request, job: Job, ticket: Ticket) -> None:
        """In a worker: from pictures to the reply."""
        try:
            if job.error is not None:
                raise job.error
            pictures = [encoded(job.pictures[index], job.text, job.seed + index) for index in range(job.count)]
            ticket.end(drawn(request, job.text, pictures))
        except Refusal as refusal:
            ticket.end(refused(refusal, job.text))
        except Exception as error:  # drawing may fail in any way; the others go on
            ticket.end(_fault(error, job.text))
        self._batcher.answered()


class Ticket:
    """A request that is being answered."""

    def __init__(self, service: Service, deliver: Deliver) -> None:
        self._service, self._deliver = service, deliver
        self._lock = threading.Lock()
        self.waits = False
        self.ended = False
        self.job: Job | None = None

    def cancel(self) -> bool:
        """Free the place and stop the work; whether there was still something to stop."""
        return self._end()

    def end(self, reply: Reply) -> None:
        """Hand over the reply, unless the ticket was cancelled."""
        if self._end():
            self._deliver(reply)

    def leave_queue(self) -> None:
        """The place in the queue is free for another."""
        with self._lock:
            waited, self.waits = self.waits, False
        if waited:
            self._service.left_queue()

    def _end(self) -> bool:
        with self._lock:
            if self.ended:
                return False
            self.ended = True
        self.leave_queue()
        if self.job is not None:
            self._service.drop(self.job)
        return True


def _fault(error: Exception, text: str) -> Reply:
    """An error of ours: its traceback goes to the log, its kind to the client."""
    if isinstance(error, DanqingError):  # a sentence for the operator, who may read paths
        print(f"danqing serve: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sentence = f"The picture could not be drawn: {type(error).__name__}; the service's log says more."
    return refused(Refusal(500, sentence), text)
