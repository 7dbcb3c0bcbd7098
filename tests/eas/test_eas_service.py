"""The service JSON that is written, and the Dockerfile beside it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from danqing import cli
from danqing_pack.eas_lint import lint, lint_text
from danqing_pack.eas_service import Deployment, dockerfile, service
from danqing_pack.errors import RequestError

BUNDLE = "oss://bucket/models/model.tar.gz"


@pytest.mark.parametrize("more", [
    {"instance_type": "ecs.gn6i-c4g1.xlarge"}, {"resource": "eas-r-abc", "cpu": 8, "memory": 30000},
    {"instance_type": "t", "image": "registry.example/danqing:1"}, {"resource": "eas-r-a", "image": "danqing"},
    {"instance_type": "t", "data_image": "env:1", "processor_path": "oss://bucket/p.tar.gz", "role_arn": "acs:ram::1:role/x"},
    {"instance_type": "t", "steps": 150, "images": 8, "oss_endpoint": "oss-internal.example"},
])
def test_what_is_written_has_no_problem(more: dict[str, Any]) -> None:
    deployment = Deployment("painter", BUNDLE, **more)
    assert lint(service(deployment), deployment.steps, deployment.images) == []


def test_the_keepalive_suits_the_largest_request() -> None:
    kept = [service(Deployment("painter", BUNDLE, instance_type="t", steps=steps, images=images))["metadata"]["rpc"]
            ["keepalive"] for steps, images in ((20, 1), (50, 4), (150, 8))]
    assert kept == [50_000, 230_000, 1_230_000]
    assert service(Deployment("painter", BUNDLE, keepalive=400_000))["metadata"]["rpc"]["keepalive"] == 400_000
    with pytest.raises(RequestError, match="write at least 230000"):
        service(Deployment("painter", BUNDLE, keepalive=60_000))


def test_the_processor_lies_beside_the_model_unless_told() -> None:
    built = service(Deployment("painter", BUNDLE, instance_type="t"))
    assert built["processor_path"] == "oss://bucket/models/processor.tar.gz"
    assert service(Deployment("painter", "oss://bucket/folder"))["processor_path"] == "oss://bucket/folder/processor.tar.gz"


@pytest.mark.parametrize(("path", "mounted", "model"), [
    (BUNDLE, "oss://bucket/models/", "/eas/workspace/model/model.tar.gz"),
    ("oss://bucket/painter", "oss://bucket/painter/", "/eas/workspace/model"),
])
def test_an_image_mounts_the_folder_and_serves_what_lies_there(path: str, mounted: str, model: str) -> None:
    built = service(Deployment("painter", path, image="danqing", instance_type="t"))
    [storage], [container] = built["storage"], built["containers"]
    assert storage["oss"]["path"] == mounted
    words = shlex.split(container["command"])
    assert words[:3] == ["danqing", "serve", model]
    assert words[words.index("--keepalive") + 1] == str(built["metadata"]["rpc"]["keepalive"])
    assert words[words.index("--port") + 1] == str(container["port"])


def test_the_command_is_one_that_danqing_serve_takes() -> None:
    import argparse

    from danqing.commands import serve

    built = service(Deployment("painter", BUNDLE, image="danqing", instance_type="t"))
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    parsed = parser.parse_args(shlex.split(built["containers"][0]["command"])[2:])
    assert (parsed.host, parsed.port, parsed.keepalive) == ("0.0.0.0", 8000, 230_000)
    words = next(line for line in dockerfile().splitlines() if line.startswith("CMD "))
    assert parser.parse_args(json.loads(words[4:])[2:]).port == 8000


@pytest.mark.parametrize(("wrong", "words"), [
    ({"name": "x"}, "3 to 63"), ({"name": "a-b-c"}, "write a_b_c"), ({"model_path": "model.tar.gz"}, "upload it"),
    ({"memory": 16}, "counted in MB"), ({"model_path": "http://host.example/m.tar.gz", "image": "x"}, "mounts its model"),
    ({"image": "x", "data_image": "y"}, "runs no processor"), ({"resource": "eas-r-a", "instance_type": "t"}, "exclude"),
    ({"model_path": "oss://<bucket>/m.tar.gz"}, "placeholder"),
])
def test_what_eas_would_refuse_is_not_written(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        service(Deployment(**{"name": "painter", "model_path": BUNDLE, **wrong}))


def test_the_command_line_writes_what_lint_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "service.json"
    words = ["eas", "service", str(target), "--model-path", BUNDLE, "--name", "painter", "--instance-type", "t"]
    assert cli.main(words) == 0
    assert "keepalive 230 s" in capsys.readouterr().out
    assert lint_text(target.read_bytes(), 50, 4) == [] and not (tmp_path / "Dockerfile").exists()
    assert cli.main(words) == 1 and "--force" in capsys.readouterr().err
    assert cli.main([*words, "--force", "--image", "danqing:1"]) == 0
    assert (tmp_path / "Dockerfile").read_text() == dockerfile()
    assert cli.main(["eas", "lint", str(target), "--steps", "50", "--images", "4", "--strict"]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")


def test_the_command_line_of_lint_names_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "service.json"
    path.write_text('{"metadata": {"name": "painter", "instance": "1", "memory": 16}}')
    assert cli.main(["eas", "lint", str(path)]) == 1
    out = capsys.readouterr().out
    assert "metadata.instance" in out and "metadata.memory" in out and "3 errors" in out
    assert cli.main(["eas", "lint", str(path), "--json"]) == 1
    assert {each["level"] for each in json.loads(capsys.readouterr().out)} == {"error", "hint"}
    assert cli.main(["eas", "lint", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith("danqing: ")
