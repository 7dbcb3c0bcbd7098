"""The service's description of itself, and whether it keeps to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from danqing.serve.contract import Limits
from danqing.serve.openapi import document
from danqing.serve.served_model import ServedModel
from danqing.serve.service import Service

CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
          "response_schema_conformance,negative_data_rejection,positive_data_acceptance,unsupported_method")


def test_fields_are_those_of_the_model(painter: ServedModel, diffusion: ServedModel) -> None:
    def names(model: ServedModel) -> set[str]:
        described = document(model.takes, Limits(), None, token=False)
        return set(described["components"]["schemas"]["Request"]["properties"])

    documented = {"text", "skip_translation", "num_inference_steps", "num_images", "use_blade"}
    assert names(painter) == documented | {"seed", "top_k", "temperature"}
    assert names(diffusion) == documented | {
        "seed", "width", "height", "guidance_scale", "negative_prompt", "image", "mask", "strength"}


def test_a_token_is_asked_for_where_there_is_one(painter: ServedModel) -> None:
    guarded = document(painter.takes, Limits(), "painter", token=True)
    assert guarded["paths"]["/api/predict/painter"]["post"]["security"] == [{"token": []}]
    assert "security" not in document(painter.takes, Limits(), "painter", token=False)["paths"]["/"]["post"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(
    make_server: Callable[..., str], make_service: Callable[..., Service], token: str, tmp_path: Path
) -> None:
    """Over a model of straw: what is asked here is whether the service keeps its word, not how it draws."""
    pytest.importorskip("schemathesis")
    address = make_server(make_service(), name="painter", token=token.encode())
    script = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    words = [sys.executable, "-c", script, "run", f"{address}/openapi.json", "--header", f"Authorization: {token}",
             "--checks", CHECKS, "--max-examples", "25", "--seed", "1", "--generation-database", "none", "--workers", "4",
             "--no-color", "--request-timeout", "120"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
