"""A bundle tried on this machine as PAI-EAS would run it, before anything is uploaded.

Everything is laid out in a scratch folder as EAS lays it (`model/`, `predictor/`, `config/config.json`; or the mounted
model, for an image), the service is started as a process of its own, asked what the documentation asks, and stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danqing_pack import archives, manifests
from danqing_pack.eas_keepalive import needed_keepalive
from danqing_pack.eas_lint import lint
from danqing_pack.eas_processor import write_processor
from danqing_pack.eas_rules import UNPACKED
from danqing_pack.eas_service import Deployment, service
from danqing_pack.eas_view import View
from danqing_pack.errors import DanqingError, RequestError, listing

from danqing.eas_checks import Check, asked, refused
from danqing.eas_processor.standin import STARTED

TEXT = "雨后的山水，水墨画"
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
LOG_LINES = 12


@dataclass
class Report:
    """Every check, in order. ``start_seconds``: until the service answered. ``log``: its last lines, if one failed."""

    checks: list[Check] = field(default_factory=list)
    start_seconds: float | None = None
    log: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(each.holds for each in self.checks)

    def describe(self) -> str:
        """A table: one line for each check."""
        width = max(len(each.name) for each in self.checks)
        lines = [f"{'ok  ' if each.holds else 'FAIL'}  {each.name:{width}}  {each.line}" for each in self.checks]
        log = ["The service's last lines:", *(f"  {line}" for line in self.log.splitlines())] if self.log else []
        return "\n".join([*lines, *log, "Ready to be uploaded." if self.passed else "Not ready to be uploaded."])

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"passed": self.passed, "start_seconds": self.start_seconds, "log": self.log,
                "checks": [vars(each) for each in self.checks]}


@dataclass(frozen=True)
class Trial:
    """What to try: a bundle, the service JSON (default: the one `danqing eas service` writes), and how.

    processor: a package to try (default: one made of the Danqing that runs). steps, images: of the requests.
    seconds: how long the service may take to start.
    """

    bundle: Path
    service: Mapping[str, Any] | None = None
    processor: Path | None = None
    device: str | None = None
    steps: int = 20
    images: int = 1
    seconds: float = 600.0

    def run(self) -> Report:
        """Try it. Problems of the bundle or the service are checks that do not hold.

        Raises RequestError: nothing lies at one of the paths, or the service runs something that cannot be run here.
        """
        for path in (self.bundle, self.processor):
            if path is not None and not path.is_file():
                raise RequestError(f"There is no file {path}: name what `danqing pack` wrote.", path=path)
        report = Report()
        described = self._described(report)
        if not report.passed:
            return report
        with tempfile.TemporaryDirectory(prefix="danqing-eas-") as scratch:
            place = Path(scratch)
            try:
                started = self._laid_out(place, described, report)
                with _running(started, place, self.seconds) as address:
                    report.start_seconds = address.seconds
                    report.checks.append(Check("start", True, f"ready after {address.seconds:.1f} s", address.seconds))
                    self._ask(address.url, described, report)
                report.checks.append(Check("stop", True, "ended when asked to"))
            except _Failed as failure:
                report.checks.append(Check(failure.step, False, str(failure)))
            if not report.passed and (place / "log").exists():
                report.log = _tail(place / "log")
        return report

    def _described(self, report: Report) -> dict[str, Any]:
        """The service JSON, checked."""
        if self.service is None:
            return service(Deployment("trial", "oss://bucket/model.tar.gz", steps=self.steps, images=self.images,
                                      instance_type="any"))
        described = dict(self.service)
        problems = lint(described, self.steps, self.images)
        errors = [each for each in problems if each.level == "error"]
        for each in errors:
            report.checks.append(Check("service JSON", False, f"{each.place}: {each.fact}; {each.remedy}"))
        if not errors:
            others = f"; {len(problems)} warnings or hints, see danqing eas lint" if problems else ""
            report.checks.append(Check("service JSON", True, f"nothing that EAS would refuse{others}"))
        return described

    def _laid_out(self, place: Path, described: dict[str, Any], report: Report) -> _Start:
        """Everything where EAS would lay it, and how the service is then started."""
        if described.get("containers"):
            return _as_image(self, place, described, report)
        workspace = place / "workspace"
        model = workspace / "model"
        model.mkdir(parents=True)
        _lay_model(self.bundle, model, report)
        predictor = workspace / "predictor"
        predictor.mkdir()
        package = self.processor
        if package is None:
            package = place / "processor.tar.gz"
            write_processor(package)
        archives.unpack_archive(package, predictor)
        (workspace / "config").mkdir()
        (workspace / "config" / "config.json").write_text(json.dumps(described), encoding="utf-8")
        entry = described.get("processor_entry", "./app.py")
        app = Path(os.path.normpath(predictor / entry)) if isinstance(entry, str) else predictor
        if described.get("processor_type") != "python" or not app.is_relative_to(predictor) or not app.is_file():
            raise RequestError(f"The processor cannot be run here: {entry!r:.80} is no file of a python processor in "
                               f"{package.name}.")
        port = _free_port()
        held = sorted(each.name for each in predictor.iterdir())
        report.checks.append(Check("processor", True, f"{package.name}: {listing(held, 5)}"))
        return _Start([sys.executable, str(app)], predictor, port, {"DANQING_ENDPOINT": f"127.0.0.1:{port}"}, STARTED,
                      self.device)

    def _ask(self, url: str, described: dict[str, Any], report: Report) -> None:
        """The documented request, that of fine-tuned models, and one that must be refused."""
        keepalive = View(described).get("metadata.rpc.keepalive") or needed_keepalive(self.steps, self.images)
        limit = max(float(keepalive) / 1000, 5) + 30
        common = {"text": TEXT, "num_inference_steps": self.steps, "num_images": self.images, "use_blade": False}
        name = View(described).text("metadata.name") or "trial"
        for title, path, request in (
            ("documented request", f"/api/predict/{name}", {**common, "skip_translation": False}),
            ("fine-tuned request", "/", common),
        ):
            report.checks.append(asked(title, f"{url}{path}", request, self.images, limit))
        report.checks.append(refused(f"{url}/", limit))


@dataclass(frozen=True)
class _Start:
    """A process to start: its words, folder and environment, and the words of its log that say that it answers."""

    words: list[str]
    folder: Path
    port: int
    environment: Mapping[str, str]
    ready: str
    device: str | None


@dataclass(frozen=True)
class _Address:
    url: str
    seconds: float


class _Failed(Exception):
    """A step that did not succeed."""

    def __init__(self, step: str, line: str) -> None:
        super().__init__(line)
        self.step = step


# ---- laying out

def _lay_model(bundle: Path, folder: Path, report: Report) -> None:
    """Unpack a bundle as EAS does: as it is, if its name says that it is an archive."""
    if not bundle.name.endswith(UNPACKED):
        shutil.copyfile(bundle, folder / bundle.name)
        report.checks.append(Check("bundle", True, f"{bundle.name} is laid down as it is: EAS unpacks {', '.join(UNPACKED)}"))
        return
    try:
        digests = archives.unpack_archive(bundle, folder)
        top = archives.common_folder(digests)
        listed = manifests.read(folder / top)
    except DanqingError as error:
        raise _Failed("bundle", str(error)) from error
    problems = manifests.differences(listed, {name[len(top):]: digest for name, digest in digests.items()})
    if problems:
        raise _Failed("bundle", listing(problems, 3))
    held = f"{len(listed['files'])} digests match" if listed else "no digests to compare"
    flat = f"not flat: everything lies in {top}, where other processors do not look" if top else "flat"
    report.checks.append(Check("bundle", True, f"{len(digests)} files, {flat}, {held}"))


def _as_image(trial: Trial, place: Path, described: dict[str, Any], report: Report) -> _Start:
    """How the container's `danqing serve` is started here: its model where the bundle lies, its port a free one."""
    container = described["containers"][0]
    words = shlex.split(container.get("command") or container.get("script") or "")
    if words[:2] != ["danqing", "serve"] or len(described["containers"]) > 1:
        raise RequestError("Only a container that runs `danqing serve` can be tried here, and this one runs "
                           f"{' '.join(words[:3])!r:.120}.")
    mounts = [item["mount_path"].rstrip("/") for item in described.get("storage", ()) if "oss" in item]
    port, kept = _free_port(), iter(words[2:])
    run = [sys.executable, "-m", "danqing", "serve"]
    for word in kept:
        if word in ("--host", "--port"):
            next(kept, None)
        elif not word.startswith(("--host=", "--port=")):
            run.append(_mounted(word, mounts, trial.bundle, place, report))
    device = ["--device", trial.device] if trial.device is not None else []
    return _Start([*run, *device, "--host", "127.0.0.1", "--port", str(port)], place, port, {}, "Ready after", None)


def _mounted(word: str, mounts: list[str], bundle: Path, place: Path, report: Report) -> str:
    """A word of the command, with a path below a mount led to where the bundle lies here."""
    mount = next((each for each in mounts if word.rstrip("/") == each or word.startswith(f"{each}/")), None)
    if mount is None:
        return word
    target = place / "mount" / word[len(mount):].strip("/")
    if not target.is_relative_to(place / "mount") or ".." in target.parts:
        raise RequestError(f"{word!r:.120} leads out of its mount.")
    if target.name.endswith(UNPACKED):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(bundle.resolve())
        report.checks.append(Check("bundle", True, f"mounted as {word}"))
    else:
        target.mkdir(parents=True)
        _lay_model(bundle, target, report)
    return str(target)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


# ---- running

@contextlib.contextmanager
def _running(start: _Start, place: Path, seconds: float) -> Iterator[_Address]:
    """The service, answering; it is asked to stop when the block ends, and made to where it does not."""
    log = place / "log"
    environment = {name: value for name, value in os.environ.items() if name != "DANQING_TOKEN"}
    temporary = place / "tmp"               # what it leaves behind when it is killed goes with the scratch folder
    temporary.mkdir()
    environment |= {"DANQING_INSTALL": "0", "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary), **start.environment}
    if start.device is not None:
        environment["DANQING_DEVICE"] = start.device
    begun = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(start.words, cwd=start.folder, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while start.ready not in _text(log):
            if process.poll() is not None:
                raise _Failed("start", f"it ended with code {process.returncode}")
            if time.monotonic() - begun > seconds:
                raise _Failed("start", f"it was not ready within {seconds:g} s")
            time.sleep(POLL_SECONDS)
        yield _Address(f"http://127.0.0.1:{start.port}", time.monotonic() - begun)
        if process.poll() is not None:
            raise _Failed("stop", f"it ended by itself with code {process.returncode}")
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise _Failed("stop", f"it went on for {STOP_SECONDS:g} s after SIGTERM") from None
        if code not in (0, -signal.SIGTERM):
            raise _Failed("stop", f"it ended with code {code}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)      # it leads a group of its own, with whatever it started
        process.wait()


def _text(log: Path) -> str:
    return log.read_bytes().decode("utf-8", "replace")


def _tail(log: Path) -> str:
    lines = [line.strip() for line in _text(log).splitlines() if line.strip()]
    return "\n".join(lines[-LOG_LINES:])[-2000:]
