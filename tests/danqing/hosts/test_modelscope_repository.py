"""A repository on ModelScope, by its id and revision: the real client against a server on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Environment = Any  # the class in conftest.py: test modules cannot import each other
REPOSITORY = "me/painter"
pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from modelscope.pipelines import pipeline
keywords = {"pipeline_name": "danqing"} if "named" in sys.argv else {"model_revision": "v1.0.0"}
task = pipeline("text-to-image-synthesis", "me/painter", **keywords)
print(task({"text": "宽松T恤"})["output_imgs"][0].shape)
"""


class Hub:
    """One repository with one set of files for each revision, and the routes that the client asks for."""

    def __init__(self, revisions: dict[str, Path]) -> None:
        self.revisions, self.asked = revisions, set[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = hub.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: str) -> tuple[int, bytes]:
        """Status and body for a request."""
        address = urlsplit(request)
        words = {name: values[0] for name, values in parse_qs(address.query).items()}
        revision = words.get("Revision", "master")
        match address.path.split(REPOSITORY):
            case ["/openapi/v1/models/", ""]:
                return 200, json.dumps({"success": True, "data": {"id": REPOSITORY}}).encode()
            case ["/api/v1/models/", "/revisions"]:
                names = {"Branches": [{"Revision": "master"}], "Tags": [{"Revision": "v1.0.0"}]}
                return 200, json.dumps({"Code": 200, "Success": True, "Data": {"RevisionMap": names}}).encode()
            case ["/api/v1/models/", "/repo/files"] if revision in self.revisions:
                files = {"Files": self.listing(revision)}
                return 200, json.dumps({"Code": 200, "Success": True, "Data": files}).encode()
            case ["/api/v1/models/", "/repo"] if revision in self.revisions:
                self.asked.add(revision)
                return 200, (self.revisions[revision] / words["FilePath"]).read_bytes()
        return 404, b"{}"

    def listing(self, revision: str) -> list[dict[str, Any]]:
        """What the hub says of each file."""
        root = self.revisions[revision]
        return [
            {
                "Name": path.name, "Path": str(path.relative_to(root)), "Type": "blob", "Size": path.stat().st_size,
                "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "IsLFS": False, "Revision": revision,
                "CommittedDate": 1,
            }
            for path in sorted(root.rglob("*")) if path.is_file()
        ]  # fmt: skip


@pytest.fixture
def hub(painter_folder: Path, painter_checkpoint: Path) -> Iterator[Hub]:
    """The tag holds a diffusers folder with a configuration, the branch an EasyNLP folder without one."""
    hub = Hub({"v1.0.0": painter_folder, "master": painter_checkpoint})
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,))
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


@pytest.mark.parametrize(("word", "revision"), [("by revision", "v1.0.0"), ("named", "master")])
def test_a_repository(installed: Environment, hub: Hub, tmp_path: Path, word: str, revision: str) -> None:
    variables = {"MODELSCOPE_ENDPOINT": hub.address, "MODELSCOPE_CACHE": str(tmp_path)}
    assert installed.run(SCRIPT, word, **variables).splitlines()[-1] == "(256, 256, 3)"
    assert hub.asked == {revision}
