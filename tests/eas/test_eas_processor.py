"""The processor: how it finds its model and settings, what app.py does first, and the stand-in it runs on."""

from __future__ import annotations

import ast
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import types
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from danqing.eas_processor import app, processor, standin
from danqing_pack.archives import unpack_archive
from danqing_pack.errors import FormatError, RequestError


def test_app_py_is_readable_to_an_old_python() -> None:
    ast.parse(Path(app.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))


# ---- where EAS lays things

@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EAS's folders, none of them outside of here."""
    monkeypatch.setattr(processor, "WORKSPACES", (tmp_path / "home", tmp_path / "eas"))
    work = tmp_path / "workspace"
    for name in ("predictor", "config"):
        (work / name).mkdir(parents=True)
    monkeypatch.chdir(work / "predictor")
    return work


def model_at(folder: Path, checkpoint: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(checkpoint)
    return folder


@pytest.mark.parametrize("place", [
    "workspace/model", "model", "home/model", "eas/model", "workspace/model/inside", "eas/model/checkpoint"])
def test_the_model_is_found_wherever_eas_lays_it(
    place: str, workspace: Path, painter_checkpoint: Path, tmp_path: Path
) -> None:
    wanted = model_at(tmp_path / place, painter_checkpoint)
    found = processor.find_model(list(processor.usual_places(workspace / "predictor")))
    assert found.resolve() == wanted.resolve()


def test_a_bundle_that_was_not_unpacked_is_found(workspace: Path) -> None:
    (workspace / "model").mkdir()
    (workspace / "model" / "model.tgz").write_bytes(b"")
    assert processor.find_model(list(processor.usual_places(workspace / "predictor"))).name == "model.tgz"


def test_what_the_runtime_says_comes_first(workspace: Path, painter_checkpoint: Path, tmp_path: Path) -> None:
    model_at(workspace / "model", painter_checkpoint)
    told = model_at(tmp_path / "told", painter_checkpoint)
    runner = processor.Processor()
    assert list(runner._told(str(told))) == [told]
    runner.get_model_path = lambda: str(tmp_path / "asked").encode()
    assert list(runner._told(None)) == [tmp_path / "asked"]


def test_no_model_is_a_sentence_that_lists_the_places(workspace: Path) -> None:
    (workspace / "model").mkdir()
    (workspace / "model" / "readme.txt").write_text("nothing")
    with pytest.raises(FormatError, match=r"workspace/model \(holds readme.txt\).*home/model \(not there\)"):
        processor.find_model(list(processor.usual_places(workspace / "predictor")))


@pytest.mark.parametrize("config", [
    {"metadata": {"rpc": {"keepalive": 70000}}}, {"metadata": {"rpc.keepalive": 70000}}, {"rpc": {"keepalive": 70000}}])
def test_the_keepalive_of_the_service_json_is_taken(config: dict[str, Any], workspace: Path) -> None:
    (workspace / "config" / "config.json").write_text(json.dumps(config))
    assert processor.keepalive(processor.service_json(workspace / "predictor")) == 70000


def test_without_a_service_json_the_keepalive_suits_pictures(workspace: Path) -> None:
    (workspace / "config" / "config.json").write_text("[" * 10)
    assert processor.service_json(workspace / "predictor") == {}
    assert processor.keepalive({}) == processor.KEEPALIVE
    assert processor.keepalive({"metadata": {"rpc": {"keepalive": "x"}}, "rpc": 3}) == processor.KEEPALIVE


def test_model_config_may_be_an_object_or_its_text() -> None:
    for given in ({"batch": 2, "dtype": "fp16"}, '{"batch": 2, "dtype": "fp16"}'):
        assert processor.model_settings({"model_config": given}) == {"batch": 2, "dtype": "fp16"}
    assert processor.model_settings({"model_config": ""}) == processor.model_settings({}) == {}
    for wrong in ("{", [1], {"batch": "2"}, {"batch": True}, {"devise": "cpu"}):
        with pytest.raises(RequestError):
            processor.model_settings({"model_config": wrong})


def test_the_vendors_runtime_is_taken_where_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = types.ModuleType("allspark")
    monkeypatch.setitem(sys.modules, "allspark", vendor)
    assert processor._runtime() is standin              # a package of that name which is another one
    vendor.BaseProcessor = object                       # type: ignore[attr-defined]
    assert processor._runtime() is vendor


# ---- app.py

def test_requirements_are_compared_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "missing":
            raise metadata.PackageNotFoundError(name)
        return "2.6.0+cpu"

    monkeypatch.setattr(metadata, "version", version)
    for met in ("torch", "torch>=2.6", "torch>=2.5.9,<3", "torch<3,>=2"):
        assert app.is_met(met), met
    for unmet in ("missing", "missing>=1", "torch>=2.7", "torch>=2.6.1", "torch<2.6"):
        assert not app.is_met(unmet), unmet


def package_of(home: Path, requirement: str) -> None:
    """A package whose wheel says where it was imported from instead of serving."""
    home.mkdir()
    (home / "app.py").write_text(Path(app.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (home / "requirements.txt").write_text(f"{requirement}\n")
    with zipfile.ZipFile(home / "danqing-9-py3-none-any.whl", "w") as archive:
        archive.writestr("danqing/__init__.py", "")
        archive.writestr("danqing/eas_processor/__init__.py", "")
        archive.writestr("danqing/eas_processor/processor.py", "def serve(home):\n    print(__file__)\n    print(home)\n")


def run_app(home: Path, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    return subprocess.run([sys.executable, "-S", str(home / "app.py")], capture_output=True, text=True, check=False,
                          env={"PATH": "", "TMPDIR": str(scratch), **environment}, cwd=tmp_path)


def test_app_py_runs_the_wheel_beside_it_and_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "predictor"
    package_of(home, "")
    done = run_app(home, tmp_path)
    wheel, told = done.stdout.splitlines()
    assert wheel.startswith(str(tmp_path / "tmp")) and told == str(home), done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_app_py_names_what_is_missing(tmp_path: Path) -> None:
    home = tmp_path / "predictor"
    package_of(home, "nothing-of-this-name>=1")
    done = run_app(home, tmp_path, DANQING_INSTALL="0")
    assert done.returncode == 1 and "nothing-of-this-name>=1" in done.stderr and "--wheelhouse" in done.stderr


def test_app_py_installs_from_the_wheelhouse_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "predictor"
    package_of(home, "nothing-of-this-name>=1")
    (home / "wheelhouse").mkdir()
    called: list[list[str]] = []

    def call(command: list[str]) -> int:
        called.append(command)
        return 0

    monkeypatch.setattr(app.subprocess, "call", call)
    app.provide(str(home))
    assert "--no-index" in called[0] and str(home / "wheelhouse") in called[0]
    assert called[0][-1] == "nothing-of-this-name>=1"


# ---- the stand-in

class Straw(standin.BaseProcessor):
    """Answers with what it was sent, or as it was told."""

    def __init__(self, threads: int = 5) -> None:
        super().__init__(threads, 1, "127.0.0.1:0")
        self.gate = threading.Event()

    def process(self, data: bytes) -> tuple[bytes, int]:
        if data == b"raise":
            raise ValueError("a fault")
        if data == b"wait":
            self.gate.wait(60)
        return data.upper(), 0 if data != b"status" else 418


@pytest.fixture
def straw(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Straw, int]]:
    """A processor on the stand-in, and its port; its properties are its own."""
    monkeypatch.setattr(standin, "_PROPERTIES", standin.Properties())
    made = Straw(threads=2)
    with standin._Server(("127.0.0.1", 0), made, 2) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield made, server.server_address[1]
        made.gate.set()
        server.shutdown()


def post(port: int, body: bytes, path: str = "/", method: str = "POST", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_the_stand_in_answers_on_any_path_with_what_process_returns(straw: tuple[Straw, int]) -> None:
    _, port = straw
    for path in ("/", "/api/predict/painter", "/api/predict/painter/x?y=1"):
        assert post(port, b"hello", path) == (200, b"HELLO")
    assert post(port, b"status")[0] == 418
    assert post(port, b"raise")[0] == 400                 # as EAS answers for an exception
    assert post(port, b"", method="GET")[0] == 405
    assert post(port, b"hello") == (200, b"HELLO")


def test_a_request_past_the_keepalive_gets_408_and_the_others_go_on(straw: tuple[Straw, int]) -> None:
    made, port = straw
    standin.default_properties().put(b"rpc.keepalive", 100)
    assert post(port, b"wait")[0] == 408
    assert post(port, b"hello") == (200, b"HELLO")
    made.gate.set()


def test_a_full_queue_gets_450_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "_PROPERTIES", standin.Properties())
    standin.default_properties().put("rpc.max_queue_size", 1)
    standin.default_properties().put("rpc.keepalive", 60_000)
    made = Straw()
    with standin._Server(("127.0.0.1", 0), made, 2) as server, ThreadPoolExecutor(3) as clients:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]
        waiting = [clients.submit(post, port, b"wait") for _ in range(3)]          # two are drawn, one waits
        deadline = time.monotonic() + 60
        while server._inside < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert post(port, b"one too many")[0] == 450
        made.gate.set()
        assert [each.result(60)[0] for each in waiting] == [200, 200, 200]
        assert post(port, b"hello") == (200, b"HELLO")
        server.shutdown()


def test_the_default_keepalive_is_that_of_eas() -> None:
    assert standin.Properties().number("rpc.keepalive") == 5000


def test_endpoints_are_read_as_the_vendors_are() -> None:
    assert standin.BaseProcessor(endpoint="0.0.0.0:8000/")._address == ("0.0.0.0", 8000)
    assert standin.BaseProcessor()._address == ("127.0.0.1", 8080)


VENDOR = '''
import json

class Properties:
    def put(self, name, value):
        print("put", name, value, flush=True)

def default_properties():
    return Properties()

class BaseProcessor:
    def __init__(self, worker_threads=5, worker_processes=1, endpoint=None):
        print("made", worker_threads, worker_processes, endpoint, flush=True)

    def get_model_path(self):
        return {model!r}

    def run(self):
        self.initialize()
        for body in ({{"text": "雨后的山水", "num_images": 2}}, {{"text": 3}}):
            reply, status = self.process(json.dumps(body).encode())
            print("replied", status, len(json.loads(reply)["images_base64"]), flush=True)
'''


@pytest.mark.slow
def test_the_package_runs_on_the_vendors_runtime(package: Path, painter_checkpoint: Path, tmp_path: Path) -> None:
    """On one of straw, that is, with the vendor's constructor and methods; no service JSON lies where one is looked for."""
    home = tmp_path / "predictor"
    home.mkdir()
    unpack_archive(package, home)
    (tmp_path / "allspark.py").write_text(VENDOR.format(model=str(painter_checkpoint)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(home / "app.py")], capture_output=True, text=True, check=False, cwd=home, timeout=600,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "DANQING_INSTALL": "0", "DANQING_DEVICE": "cpu"})
    lines = done.stdout.splitlines()
    assert lines == [f"put rpc.keepalive {processor.KEEPALIVE}", f"made {processor.BATCH} 1 None",
                     f"Loading {painter_checkpoint}", "replied 200 2", "replied 400 0"], done.stderr
    assert done.returncode == 0
