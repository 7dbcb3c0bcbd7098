"""Everything between a checkpoint and a service on PAI-EAS, each step tried on this machine first.

  danqing pack MODEL model.tar.gz                    the bundle that model_path takes
  danqing eas processor processor.tar.gz             the package that processor_path takes
  danqing eas service service.json --model-path oss://bucket/model.tar.gz --name painter --instance-type TYPE
  danqing eas lint service.json                      every problem of a service JSON at once
  danqing eas test model.tar.gz --service service.json
  danqing eas call http://.../api/predict/painter "雨后的山水" --token-file token.txt -o out

The token comes from --token-file or DANQING_TOKEN, never from the command line, where others could read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from danqing_pack.errors import FormatError, RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing eas``."""
    steps = parser.add_subparsers(dest="step", metavar="processor|service|lint|test|call", required=True)
    _processor_arguments(steps.add_parser("processor", help="make the package of the processor", allow_abbrev=False))
    _service_arguments(steps.add_parser("service", help="write a service JSON", allow_abbrev=False))
    _lint_arguments(steps.add_parser("lint", help="list every problem of a service JSON", allow_abbrev=False))
    _test_arguments(steps.add_parser("test", help="try a bundle as EAS would run it", allow_abbrev=False))
    _call_arguments(steps.add_parser("call", help="ask a service for pictures", allow_abbrev=False))


def run(args: argparse.Namespace) -> int | None:
    """One step."""
    code: int | None = STEPS[args.step](args)
    return code


# ---- danqing eas processor

def _processor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="OUT", help="the file to write, such as processor.tar.gz")
    parser.add_argument("--wheelhouse", type=Path, metavar="DIR", help="a folder of wheels for an image that lacks them")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _processor(args: argparse.Namespace) -> None:
    from danqing_pack.eas_processor import write_processor

    from danqing.progress import byte_progress

    with byte_progress("packing") as progress:
        print(write_processor(args.target, args.wheelhouse, args.force, progress).describe())


# ---- danqing eas service

def _service_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write, such as service.json")
    parser.add_argument("--model-path", required=True, metavar="oss://...", help="where the bundle will lie")
    parser.add_argument("--name", required=True, help="of the service: lower-case letters, digits, underscores")
    parser.add_argument("--image", help="an image that holds Danqing; writes a Dockerfile beside OUT, too (default: a "
                                        "python processor)")
    parser.add_argument("--no-dockerfile", action="store_true", help="with --image: the image exists already")
    parser.add_argument("--processor-path", metavar="oss://...",
                        help="where the processor's package will lie (default: processor.tar.gz beside the model)")
    parser.add_argument("--data-image", metavar="IMAGE", help="an image whose environment the processor runs in")
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--instance-type", metavar="TYPE", help="a machine of the public resource group")
    machine.add_argument("--resource", metavar="ID", help="a dedicated resource group, eas-r-...")
    for name, unit in (("instances", "how many (default: 1)"), ("cpu", "cores"), ("memory", "MB"), ("gpu", "GPUs")):
        parser.add_argument(f"--{name}", type=int, metavar="N", default=1 if name == "instances" else None, help=unit)
    parser.add_argument("--steps", type=int, default=50, metavar="N",
                        help="denoising steps of the largest request (default: 50)")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="pictures of the largest request (default: 4)")
    parser.add_argument("--keepalive", type=int, metavar="MS",
                        help="milliseconds until a request gets 408 (default: what --steps and --images may take)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait (default: 64)")
    parser.add_argument("--oss-endpoint", metavar="HOST", help="of a bucket in another region")
    parser.add_argument("--role-arn", metavar="ARN", help="the role that may read the bucket")
    parser.add_argument("--force", action="store_true", help="replace what exists")


def _service(args: argparse.Namespace) -> None:
    from danqing_pack.eas_service import Deployment, dockerfile, encode, service
    from danqing_pack.staging import staged_file

    names = ("name", "model_path", "image", "processor_path", "data_image", "instance_type", "resource", "instances", "cpu",
             "memory", "gpu", "keepalive", "steps", "images", "queue", "oss_endpoint", "role_arn")
    for name in ("instances", "steps", "images", "queue"):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name} must be at least 1, not {getattr(args, name)}.")
    built = service(Deployment(**{name: getattr(args, name) for name in names}))
    files = {args.target: encode(built)}
    if args.image is not None and not args.no_dockerfile:
        files[args.target.with_name("Dockerfile")] = dockerfile().encode()
    for path, data in files.items():
        with staged_file(path, args.force) as staging:
            staging.write_bytes(data)
    keepalive = built["metadata"]["rpc"]["keepalive"]
    print(f"Wrote {' and '.join(map(str, files))}: keepalive {keepalive / 1000:g} s.")
    if "processor_path" in built:
        print(f"Upload the bundle to {built['model_path']} and the package of `danqing eas processor` to "
              f"{built['processor_path']}.")


# ---- danqing eas lint

def _lint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a service JSON")
    parser.add_argument("--steps", type=int, default=20, metavar="N",
                        help="denoising steps of the largest request, for the keepalive (default: 20)")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="pictures of the largest request (default: 1)")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--json", action="store_true", help="one JSON list of problems")


def _lint(args: argparse.Namespace) -> int:
    from danqing_pack.eas_lint import lint_text

    found = {path: lint_text(_read(path), args.steps, args.images) for path in args.files}
    if args.json:
        print(json.dumps([{"file": str(path), **vars(each)} for path, problems in found.items() for each in problems],
                         ensure_ascii=False, indent=1))
    else:
        for path, problems in found.items():
            for each in problems:
                print(f"{path}: {each}")
            print(f"{path}: {_counted([each.level for each in problems])}")
    bad = ("error", "warning") if args.strict else ("error",)
    return int(any(each.level in bad for problems in found.values() for each in problems))


def _counted(levels: list[str]) -> str:
    counts = [(levels.count(level), level) for level in ("error", "warning", "hint")]
    return ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count) or "no problems"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): name a service JSON.", path=path) from error


# ---- danqing eas test

def _test_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what `danqing pack` wrote")
    parser.add_argument("--service", type=Path, metavar="FILE", help="the service JSON to try it with")
    parser.add_argument("--processor", type=Path, metavar="FILE",
                        help="the processor's package to try (default: one of this Danqing)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="denoising steps of a request (default: 20)")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="pictures of a request (default: 1)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds to start in (default: 600)")
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def _test(args: argparse.Namespace) -> int:
    from danqing_pack.eas_lint import lint_text

    from danqing.eas_trial import Trial

    service = None
    if args.service is not None:
        text = _read(args.service)
        try:
            service = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            service = None
        if not isinstance(service, dict):
            raise FormatError(f"{args.service}: {lint_text(text)[0]}", path=args.service)
    for name in ("steps", "images"):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name} must be at least 1, not {getattr(args, name)}.")
    report = Trial(args.bundle, service, args.processor, args.device, args.steps, args.images, args.timeout).run()
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=1) if args.json else report.describe())
    return 0 if report.passed else 1


# ---- danqing eas call

def _call_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the service's address, such as http://.../api/predict/NAME")
    parser.add_argument("text", metavar="TEXT", help="what to draw")
    parser.add_argument("-o", "--output", type=Path, default=Path("out"), metavar="DIR", help="default: out")
    parser.add_argument("--token-file", type=Path, metavar="FILE",
                        help="file with the token (default: the variable DANQING_TOKEN, else none)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the service's)")
    parser.add_argument("--num-images", type=int, default=1, metavar="N", help="pictures (default: 1)")
    parser.add_argument("--seed", type=int, metavar="S", help="picture k draws from S + k")
    parser.add_argument("--skip-translation", action="store_true", help="draw the text as it is")
    parser.add_argument("--use-blade", action="store_true", help="ask for the accelerated path")
    parser.add_argument("--field", action="append", default=[], metavar="NAME=VALUE",
                        help="any other field, its value in JSON or as text; may be given several times")
    parser.add_argument("--timeout", type=float, metavar="S",
                        help="seconds to wait for the answer (default: what the steps may take)")
    parser.add_argument("--retries", type=int, default=5, metavar="N",
                        help="how often to try again what was not begun (default: 5)")


def _call(args: argparse.Namespace) -> None:
    from danqing.eas_client import call
    from danqing.serve.authorization import read_token

    answer = call(args.url, _request(args), read_token(args.token_file), seconds=args.timeout,
                  retries=max(0, args.retries))
    written = _written(args.output, args.text, answer.images)
    print(f"Wrote {len(written)} picture{'s' if len(written) > 1 else ''} to {args.output} after {answer.seconds:.1f} s: "
          f"{', '.join(written)}.")
    if answer.text and answer.text != args.text:
        print(f"The text that was drawn: {answer.text}", file=sys.stderr)


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the contract that were asked for."""
    request: dict[str, Any] = {"text": args.text, "num_images": args.num_images}
    given = {"num_inference_steps": args.steps, "seed": args.seed, "skip_translation": args.skip_translation or None,
             "use_blade": args.use_blade or None}
    request |= {name: value for name, value in given.items() if value is not None}
    for pair in args.field:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RequestError(f"--field {pair!r:.80} is no field: write NAME=VALUE.")
        try:
            request[name] = json.loads(text)
        except ValueError:
            request[name] = text
    return request


def _written(folder: Path, text: str, images: tuple[bytes, ...]) -> list[str]:
    """The files as they came, numbered on from what is there."""
    from danqing_pack.base64_images import extension
    from danqing_pack.staging import staged_file

    from danqing.images import file_name

    folder.mkdir(parents=True, exist_ok=True)
    first = 1 + max((int(each.name[:4]) for each in folder.glob("[0-9][0-9][0-9][0-9]-*")), default=0)
    written = []
    for index, data in enumerate(images):
        name = f"{first + index:04d}-{file_name(text)}.{extension(data).lstrip('.')}"
        with staged_file(folder / name) as staging:
            staging.write_bytes(data)
        written.append(name)
    return written


STEPS = {"processor": _processor, "service": _service, "lint": _lint, "test": _test, "call": _call}
