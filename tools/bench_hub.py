#!/usr/bin/env python3
"""`danqing push` and `pull` against the bare call of each hub's client: seconds and peak memory, turn by turn.

One sparse file of the size asked for, beside the small files of a checkpoint, goes to and comes from a loopback hub in a
process of its own. Every turn runs in a fresh interpreter that has imported the client before the clock starts. The bare
calls are `create_commit` and `snapshot_download` of huggingface_hub, and `upload_folder` and `download_repo` of
modelscope_hub. The bars: 1.05 times the bare call, and 256 MiB above what the imports took. With --rate the hub sends and
takes no more than so many MB a second for each connection, as a line of that width would: what matters to a user, since
on a loopback the clock shows who hashes what on how many cores, and it says nothing about networks. Ratios are medians
over the rounds, each within one round. A table goes to stderr, one line of JSON to stdout; exits with 1 if a bar is missed.

    tools/bench_hub.py [--size 2G] [--rounds 3] [--rate 100] [--folder /dev/shm]     needs three times the size there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
UNITS = {"M": 1 << 20, "G": 1 << 30}
BAR, MEMORY = 1.05, 256 << 20
NAME, COMMIT, BLOCK = "org/model", "c" * 40, 1 << 20

CLOCK = """
import json, os, sys, time
from pathlib import Path
folder, target = Path(sys.argv[1]), Path(sys.argv[2])
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))
{prepare}
Path("/proc/self/clear_refs").write_text("5")
before, clock = memory("VmRSS"), time.perf_counter()
{work}
print(json.dumps([time.perf_counter() - clock, memory("VmHWM") - before]))
"""
HF = "from huggingface_hub import HfApi, CommitOperationAdd\nimport huggingface_hub.hf_api, huggingface_hub.lfs\napi = HfApi()"
MS = "from modelscope_hub import HubApi\nimport modelscope_hub._upload, modelscope_hub._download\napi = HubApi()"
PUSH, PULL = "from danqing_pack.pushing import push", "from danqing_pack.pulling import pull"
TURNS = {
    "hf up, bare": (HF, """api.create_repo("org/model", exist_ok=True)
api.create_commit("org/model", [CommitOperationAdd(p.relative_to(folder).as_posix(), p) for p in sorted(folder.rglob("*"))
                                if p.is_file()], commit_message="x")"""),
    "hf up, push": (f"{HF}\n{PUSH}", 'push(folder, "hf:org/model", card=False)'),
    "ms up, bare": (MS, 'api.upload_folder("org/model", "model", folder, use_cache=False)'),
    "ms up, push": (f"{MS}\n{PUSH}", 'push(folder, "ms:org/model", card=False)'),
    "hf down, bare": (HF, 'api.snapshot_download("org/model", local_dir=target)'),
    "hf down, pull": (f"{HF}\n{PULL}", 'pull("hf:org/model", target)'),
    "ms down, bare": (MS, 'api.download_repo("org/model", "model", local_dir=target)'),
    "ms down, pull": (f"{MS}\n{PULL}", 'pull("ms:org/model", target)'),
}


class Hub(BaseHTTPRequestHandler):
    """Both hubs with one repository. What is pushed is digested, as a hub does, and forgotten; what is pulled is `folder`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True      # or every answer waits 40 ms for the client's acknowledgement of its headers
    folder: Path
    digests: dict[str, str]
    rate: float
    listed: dict[str, Any]

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def take(self) -> bytes:
        """A body; that of a PUT is measured out and thrown away."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"" if self.command == "PUT" else b"".join(parts)
        left = int(self.headers.get("Content-Length") or 0)
        if self.command != "PUT":
            return self.rfile.read(left)
        start, done = time.perf_counter(), 0
        while left:
            count = len(self.rfile.read(min(left, BLOCK)))
            left, done = left - count, done + count
            self.pace(start, done)
        return b""

    def pace(self, start: float, done: int) -> None:
        if self.rate and (early := done / self.rate - (time.perf_counter() - start)) > 0:
            time.sleep(early)

    def give(self, name: str, **headers: str) -> None:
        path = self.folder / name
        size = path.stat().st_size
        self.send_response(200)
        for key, text in {**headers, "Content-Length": str(size), "Accept-Ranges": "bytes"}.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command == "HEAD":
            return
        start, done = time.perf_counter(), 0
        with path.open("rb") as file:
            while done < size:
                done += os.sendfile(self.wfile.fileno(), file.fileno(), done, min(size - done, BLOCK))
                self.pace(start, done)

    def files(self) -> dict[str, tuple[int, str]]:
        return {name: ((self.folder / name).stat().st_size, digest) for name, digest in self.digests.items()}

    def entries(self, hub: str) -> list[dict[str, Any]]:
        if hub == "hf":
            return [{"type": "file", "path": name, "size": size, "oid": digest[:40],
                     "lfs": {"oid": digest, "size": size, "pointerSize": 134}} for name, (size, digest) in self.files().items()]
        return [{"Name": name, "Path": name, "Type": "blob", "Size": size, "Sha256": digest, "CommittedDate": 1}
                for name, (size, digest) in self.files().items()]

    def handle_one(self) -> None:
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        body, fresh = self.take(), not self.listed.get("pushed")
        match path.strip("/").split("/"):
            case ["blob", *_] | ["verify"] | ["api", "validate-yaml"]:
                self.answer({})
            case ["api", "repos", "create"]:
                self.answer({"url": f"http://{self.headers['Host']}/{NAME}"})
            case ["api", "models", "org", "model", "preupload", _]:
                self.answer({"files": [{"path": each["path"], "uploadMode": "lfs", "shouldIgnore": False}
                                       for each in json.loads(body)["files"]]})
            case ["org", "model.git", *_] | ["api", "v1", "repos", "models", "org", "model", "info", *_]:
                objects = [{"oid": each["oid"], "size": each["size"], "actions": {"upload": {
                    "href": f"http://{self.headers['Host']}/blob/{each['oid']}"}}} for each in json.loads(body)["objects"]]
                self.answer({"transfer": "basic", "objects": objects, "Code": 200, "Data": {"objects": objects}})
            case ["api", "models", "org", "model", "commit", _] | ["api", "v1", "repos", "models", "org", "model", "commit", _]:
                self.listed["pushed"] = True
                self.answer({"commitUrl": f"http://{self.headers['Host']}/{NAME}/commit/{COMMIT}", "commitOid": COMMIT,
                             "success": True, "Code": 200, "Data": {"oid": COMMIT}})
            case ["api", "models", "org", "model", "tree", _]:
                self.answer([] if fresh else self.entries("hf"))
            case ["api", "models", "org", "model", "refs"]:
                self.answer({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}], "tags": [],
                             "converts": []})
            case ["api", "models", "org", "model", *_]:
                self.answer({"_id": "1", "id": NAME, "sha": COMMIT, "siblings": [], "private": False, "tags": [],
                             "downloads": 0, "likes": 0})
            case ["org", "model", "resolve", _, *name]:
                digest = self.digests["/".join(name)]
                size = str((self.folder / "/".join(name)).stat().st_size)
                self.give("/".join(name), X_Repo_Commit=COMMIT, ETag=f'"{digest}"', X_Linked_Etag=f'"{digest}"',
                          X_Linked_Size=size)
            case ["api", "v1", "models", "org", "model", "repo"]:
                self.give(query["FilePath"][0])
            case ["api", "v1", "models", "org", "model", "repo", "files"]:
                self.answer({"Code": 200, "Data": {"Files": [] if fresh else self.entries("ms")}})
            case ["api", "v1", "models", "org", "model", "revisions"]:
                self.answer({"Code": 200, "Data": {"RevisionMap": {"Branches": [{"Revision": "master"}], "Tags": []}}})
            case ["openapi", *_] | ["api", "v1", "models", *_]:
                self.answer({"success": True, "data": {"id": NAME}, "Code": 200, "Success": True, "Data": {}})
            case _:
                self.answer({}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = handle_one


def checkpoint(place: Path, nbytes: int) -> Path:
    """A checkpoint that `danqing check` passes, and a sparse file of `nbytes` that belongs to it."""
    sys.path[:0] = [str(ROOT / "packaging")]
    from danqing_pack import manifests
    from danqing_pack.conversion import convert
    from danqing_pack.tensors import sha256_of

    folder = place / "model"
    convert(ROOT / "tests/golden/easynlp/painter_tiny/checkpoint", folder, to="diffusers")
    large = folder / "legacy" / "sparse.bin"
    large.parent.mkdir(exist_ok=True)
    with large.open("wb") as file:
        file.truncate(nbytes)
    manifest = manifests.read(folder)
    manifest["files"]["legacy/sparse.bin"] = sha256_of(large)
    (folder / manifests.NAME).write_bytes(manifests.encode(manifest))
    return folder


def serve(folder: Path, rate: float) -> tuple[ThreadingHTTPServer, dict[str, Any]]:
    digests = {path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    listed: dict[str, Any] = {}
    kind = type("Here", (Hub,), {"folder": folder, "digests": digests, "rate": rate * 1e6, "listed": listed})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, listed


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def turn(name: str, folder: Path, place: Path, address: str) -> tuple[float, int]:
    """Seconds, and peak bytes above what the imports took."""
    prepare, work = TURNS[name]
    home, target = place / "home", place / "target"
    environment = {
        **os.environ, "HOME": str(home), "HF_HOME": str(home), "XDG_CACHE_HOME": str(home), "HF_ENDPOINT": address,
        "HF_TOKEN": "hf_loopback", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "MODELSCOPE_ENDPOINT": address,
        "MODELSCOPE_API_TOKEN": "loopback", "MODELSCOPE_CACHE": str(home), "MODELSCOPE_HOME": str(home), "TQDM_DISABLE": "1",
        "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT / "packaging"),
    }
    program = CLOCK.replace("{prepare}", prepare).replace("{work}", work)
    try:
        done = subprocess.run([sys.executable, "-c", program, folder, target], env=environment, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-3000:]}")
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
        return seconds, peak
    finally:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def measure(place: Path, nbytes: int, rounds: int, rate: float) -> dict[str, Any]:
    """All turns, round by round."""
    folder = checkpoint(place, nbytes)
    server, listed = serve(folder, rate)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    results: dict[str, list[tuple[float, int]]] = {name: [] for name in TURNS}
    for _ in range(rounds):
        for name, found in results.items():
            listed["pushed"] = "down" in name
            found.append(turn(name, folder, place, address))
    server.shutdown()
    summary = {}
    for name, found in results.items():
        bare = results[name.split(",")[0] + ", bare"]
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(found, bare, strict=True)]
        summary[name] = {"seconds": round(statistics.median(each for each, _ in found), 2),
                         "peak": max(each for _, each in found), "ratio": round(statistics.median(ratios), 3)}
    return {"bytes": nbytes, "rounds": rounds, "rate": rate, "turns": summary}


def report(found: dict[str, Any]) -> bool:
    """Print the table; whether the bars were met."""
    rate = f"{found['rate']:g} MB/s" if found["rate"] else "as fast as it goes"
    print(f"{found['bytes'] / 2**20:,.0f} MiB, {found['rounds']} rounds, {rate}; bars: {BAR} and {MEMORY >> 20} MiB",
          file=sys.stderr)
    print(f"{'':16}{'s':>9}{'/ bare':>9}{'peak MiB':>10}", file=sys.stderr)
    met = True
    for name, each in found["turns"].items():
        print(f"{name:16}{each['seconds']:9.2f}{each['ratio']:9.3f}{each['peak'] / 2**20:10.0f}", file=sys.stderr)
        met = met and (name.endswith("bare") or each["ratio"] <= BAR and each["peak"] <= MEMORY)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2G", help="of the sparse file, such as 256M or 2G (default)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="MB a second for each connection (default: no limit)")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    arguments = parser.parse_args()
    nbytes = int(float(arguments.size[:-1]) * UNITS[arguments.size[-1].upper()])
    with tempfile.TemporaryDirectory(prefix="danqing-bench-", dir=arguments.folder) as scratch:
        found = measure(Path(scratch), nbytes, arguments.rounds, arguments.rate)
    met = report(found)
    print(json.dumps(found))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
