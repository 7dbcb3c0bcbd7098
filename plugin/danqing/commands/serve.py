"""Answer requests over HTTP, by the contract of PAI-EAS's text-to-image services.

  danqing serve pai-painter-commercial-base-zh --token-file token.txt
  curl 127.0.0.1:8080 -H "Authorization: $(cat token.txt)" -d '{"text": "宽松T恤"}'

POST works on any path. GET / is a page to try the model; /health, /ready, /metrics and /openapi.json are for machines.
The token comes from --token-file or DANQING_TOKEN, never from the command line, where others could read it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from danqing_pack.errors import MissingExtraError, RequestError

from danqing.devices import require_words
from danqing.serve.contract import Limits

if TYPE_CHECKING:
    from danqing.serve.metrics import Metrics
    from danqing.serve.service import Service


UNITS = {"body": "bytes", "prompt": "characters", "images": "pictures", "pixels": "pixels of a picture",
         "steps": "denoising steps"}
"""What ``Limits`` counts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing serve``."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL",
        help="a folder, a bundle, a name, or hf:org/name or ms:org/name (default: the small one inside)")
    parser.add_argument("--name", help="the service's name: /api/predict/OTHER is then not found (default: any name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: any free one (default: 8080)")
    parser.add_argument("--token-file", type=Path, metavar="FILE",
                        help="file with the token (default: the variable DANQING_TOKEN, else open to all)")
    parser.add_argument("--worker-threads", type=int, default=2, metavar="N",
                        help="threads that read requests and pack pictures, beside the one that draws (default: 2)")
    parser.add_argument("--queue", type=int, default=64, metavar="N",
                        help="requests that may wait; more get 450 (default: 64)")
    parser.add_argument("--keepalive", type=int, default=300_000, metavar="MS",
                        help="milliseconds until a request gets 408 and its work is stopped (default: 300000)")
    parser.add_argument("--batch", type=int, default=8, metavar="N",
                        help="pictures drawn together; 1: no batching (default: 8)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, fp32, fp16 or bf16 (default: auto)")
    parser.add_argument("--text-length", type=int, metavar="N",
                        help="text tokens of a painter whose files leave it open")
    parser.add_argument("--translator", type=Path, metavar="DIR",
                        help="a text2text model of transformers, such as Marian, that makes texts Chinese")
    parser.add_argument("--quiet", action="store_true", help="no line for each request")
    group = parser.add_argument_group("limits of one request")
    defaults = Limits()
    for name, unit in UNITS.items():
        default = getattr(defaults, name)
        group.add_argument(f"--max-{name}", type=int, default=default, metavar="N", help=f"{unit} (default: {default})")


def run(args: argparse.Namespace) -> None:
    """Listen, load, answer until a signal comes."""
    _check_numbers(args)
    require_words(args.device, args.dtype)
    try:
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("danqing serve needs uvicorn; install it with `pip install danqing[serve]`.",
                                extra="serve") from error
    from danqing.serve.app import App
    from danqing.serve.authorization import read_token
    from danqing.serve.metrics import Metrics
    from danqing.serve.running import listen, run, say

    place = _model(args.model, args.text_length)
    token = read_token(args.token_file)
    os.environ.pop("DANQING_TOKEN", None)  # no library and no child process needs it
    sock, metrics = listen(args.host, args.port), Metrics()
    app = App(name=args.name, token=token, limits=_limits(args), keepalive=args.keepalive / 1000, metrics=metrics,
              log=(lambda line: None) if args.quiet else say)
    host, port = sock.getsockname()[:2]
    say(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}"
        + ("." if token else "; no token is set, so it is open to whoever reaches it."))
    run(app, sock, lambda: _service(place, args, metrics), say, args.queue)


def _service(place: str | Path, args: argparse.Namespace, metrics: Metrics) -> Service:
    from danqing.loading import load
    from danqing.serve.served_model import ServedModel
    from danqing.serve.service import Service
    from danqing.serve.translation import Translator

    translator = Translator(args.translator) if args.translator is not None else None
    pipe = load(place, device=args.device, dtype=args.dtype, text_length=args.text_length)
    return Service(ServedModel(pipe), _limits(args), translator=translator, queue=args.queue, batch=args.batch,
                   keepalive=args.keepalive / 1000, worker_threads=args.worker_threads, metrics=metrics)


def _limits(args: argparse.Namespace) -> Limits:
    return Limits(**{name: getattr(args, f"max_{name}") for name in UNITS})


def _model(name: str | None, text_length: int | None) -> str | Path:
    """The model to serve, the one inside Danqing where none was named; a folder is looked into before anybody may ask.

    What a hub holds is fetched while the service listens.
    """
    if name is not None:
        from danqing.places import find_checkpoint

        return find_checkpoint(name, text_length).path if os.path.exists(os.path.expanduser(name)) else name
    from danqing.mini import CHECKPOINT

    return CHECKPOINT


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("worker_threads", "queue", "keepalive", "batch", *(f"max_{name}" for name in UNITS)):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}.")
    if not 0 <= args.port < 65536:
        raise RequestError(f"--port {args.port} is none; give a number from 0 to 65535.")
    if args.translator is not None and not args.translator.is_dir():
        raise RequestError(f"There is no folder {args.translator} for --translator; name a local text2text model.")
