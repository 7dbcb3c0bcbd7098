"""The vendor's own client, in an environment of its own: its protobuf and its licence stay out of ours."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from danqing.serve.service import Service
from PIL import Image

SCRIPT = """
import sys
from eas_prediction import PredictClient, StringRequest
address, service, token, body = sys.argv[1:]
client = PredictClient(address, service)
if token:
    client.set_token(token)
client.set_timeout(120000)
client.init()
sys.stdout.write(client.predict(StringRequest(body)).response_data.decode())
"""


@pytest.fixture(scope="module")
def vendor_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("vendor")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    words = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*words, "eas-prediction==0.36", "protobuf<=3.20.3"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"eas-prediction cannot be installed here: {done.stderr.strip().splitlines()[-1][:200]}")
    return home / "bin" / "python"


def call(python: Path, address: str, service: str, token: str, **wish: Any) -> subprocess.CompletedProcess[str]:
    words = [python, "-c", SCRIPT, address, service, token, json.dumps(wish)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_gets_pictures_with_and_without_a_token(
    vendor_python: Path, server: Any, token: str, make_server: Callable[..., str], make_service: Callable[..., Service]
) -> None:
    done = call(vendor_python, server.address, "painter", token, text="山水", num_images=2, seed=4)
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    images = [Image.open(io.BytesIO(base64.urlsafe_b64decode(each))) for each in reply["images_base64"]]
    assert [image.size for image in images] == [(256, 256)] * 2
    opened = call(vendor_python, make_server(make_service()), "any_name", "", text="山水")
    assert opened.returncode == 0 and json.loads(opened.stdout)["success"], opened.stderr
    wrong = call(vendor_python, server.address, "painter", "wrong", text="山水")
    assert wrong.returncode != 0 and "401" in wrong.stderr
