"""A loopback double of both hubs: the routes that their clients ask for, and failures on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_correcthorsebatterystaple"
ROUTE_FAILURES = ("status", "done", "drop", "slow", "corrupt")


@dataclass
class Repo:
    """Branches and tags to commits, commits to files by name (their sha256), and what is large."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    def files(self, revision: str) -> dict[str, str] | None:
        commit = self.refs.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(commit)

    def add(self, branch: str, files: dict[str, str], message: str = "") -> str:
        text = json.dumps([branch, sorted(files.items()), len(self.commits)])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit], self.refs[branch] = dict(files), commit
        self.messages.append(message)
        return commit


@dataclass
class Failure:
    """What goes wrong: on requests whose method and path hold ``mark``, ``times`` times."""

    mark: str
    kind: str
    value: int = 0
    times: int = 1
    header: dict[str, str] = field(default_factory=dict)


class Double:
    """Both hubs on one address; ``requests`` lists what was asked, ``blobs`` are all bytes by sha256,
    and ``held`` says which hub has which."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes | Path] = {}
        self.held: set[tuple[str, str]] = set()
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.received = self.sent = 0
        self.failures: list[Failure] = []
        self.lock = threading.RLock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                double.handle(self)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_one

            def log_message(self, *words: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass                    # a client that has gone is no news

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def forget(self) -> None:
        """As new."""
        for each in (self.repos, self.blobs, self.held, self.requests, self.ranges, self.failures):
            each.clear()
        self.received = self.sent = 0

    # ---- what tests ask

    def repo(self, hub: str, name: str) -> Repo:
        return self.repos[hub, name]

    def content(self, hub: str, name: str, revision: str | None = None) -> dict[str, bytes]:
        """The files of a revision with their bytes."""
        files = self.repos[hub, name].files(revision or ("main" if hub == "hf" else "master"))
        assert files is not None
        return {path: self.bytes_of(digest) for path, digest in files.items()}

    def bytes_of(self, digest: str) -> bytes:
        blob = self.blobs[digest]
        return blob if isinstance(blob, bytes) else blob.read_bytes()

    def fill(self, hub: str, name: str, folder: Path, tag: str | None = None, large: int = 1 << 16) -> Repo:
        """Put a folder into a repository, as somebody else would have."""
        repo = self.repos.setdefault((hub, name), Repo())
        files = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                self.blobs[digest] = data
                files[path.relative_to(folder).as_posix()] = digest
                self.held.add((hub, digest))
                if len(data) > large:
                    repo.large.add(digest)
        commit = repo.add("main" if hub == "hf" else "master", files)
        if tag:
            repo.tags[tag] = commit
        return repo

    def fail(self, mark: str, kind: str, value: int = 0, times: int = 1, **header: str) -> None:
        """From now on: ``status`` answers a number, ``done`` does so when the work is done, ``drop`` breaks off after so
        many bytes (either way), ``slow`` waits so many milliseconds, ``corrupt`` keeps other bytes than arrived, or sends
        other bytes than it lists."""
        assert kind in ROUTE_FAILURES
        self.failures.append(Failure(mark, kind, value, times, {name.replace("_", "-"): text for name, text in header.items()}))

    def count(self, mark: str) -> int:
        return sum(mark in request for request in self.requests)

    # ---- answering

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = f"{handler.command} {unquote(handler.path)}"
        failure = None
        with self.lock:
            self.requests.append(request)
            for each in self.failures:
                if each.mark in request and each.times > 0:
                    each.times -= 1
                    failure = each
                    break
        if failure and failure.kind == "slow":
            time.sleep(failure.value / 1000)
            failure = None
        body = self.receive(handler, failure if failure and failure.kind == "drop" and handler.command == "PUT" else None)
        if body is None:
            return
        if failure and failure.kind == "done":
            self.answer(_Deaf(handler), request, body, None)
            failure.kind = "status"
        if failure and failure.kind == "status":
            self.reply(handler, failure.value, {"error": "on demand", "Message": "on demand"}, **failure.header)
            return
        if failure and failure.kind == "drop" and handler.command == "POST" and "/commit/" in request and failure.value == 1:
            self.answer(_Deaf(handler), request, body, None)      # done, but nobody hears of it
            handler.close_connection = True
            handler.connection.close()
            return
        self.answer(handler, request, body, failure)

    def receive(self, handler: BaseHTTPRequestHandler, drop: Failure | None) -> bytes | None:
        length = int(handler.headers.get("Content-Length") or 0)
        if drop:
            handler.rfile.read(min(length, drop.value))
            handler.close_connection = True
            handler.connection.close()
            return None
        if handler.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                parts.append(handler.rfile.read(size))
                handler.rfile.readline()
            handler.rfile.readline()
            return b"".join(parts)
        body = handler.rfile.read(length)
        if handler.command == "PUT":
            self.received += len(body)
        return body

    def reply(self, handler: Any, status: int, value: Any = None, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value if value is not None else {}).encode()
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name, text)
        if "Content-Length" not in headers:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)

    def allowed(self, handler: BaseHTTPRequestHandler) -> bool:
        """Whether the request carries the right token."""
        return handler.headers.get("Authorization") == f"Bearer {TOKEN}" or f"m_session_id={TOKEN}" in (
            handler.headers.get("Cookie") or "")

    def answer(self, handler: Any, request: str, body: bytes, failure: Failure | None) -> None:
        address = urlsplit(handler.path)
        path = unquote(address.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        wrong = handler.headers.get("Authorization") and not self.allowed(handler)
        if wrong and not path.startswith("/blob/"):
            self.reply(handler, 401, {"error": "Invalid credentials", "Message": "invalid token"}, **{
                "X-Error-Message": "Invalid credentials in Authorization header"})
            return
        if handler.command == "PUT" and path.startswith("/blob/"):
            return self.store(handler, *path.removeprefix("/blob/").split("/"), body, failure)
        if path.startswith(("/api/v1/", "/openapi/")):
            return self.modelscope(handler, path, query, body, failure)
        return self.hugging_face(handler, path, query, body, failure)

    def store(self, handler: Any, hub: str, digest: str, body: bytes, failure: Failure | None) -> None:
        if failure and failure.kind == "corrupt":
            # A hub that keeps other bytes and lists their digest.
            body = bytes(len(body))
            self.substitute = (digest, hashlib.sha256(body).hexdigest())
            self.blobs[self.substitute[1]] = body
        elif hashlib.sha256(body).hexdigest() != digest:
            return self.reply(handler, 400, {"Message": "digest", "error": "digest"})
        self.blobs[digest] = body
        self.held.add((hub, digest))
        self.reply(handler, 200, {})

    substitute: tuple[str, str] = ("", "")

    def links(self, hub: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answer = []
        for each in objects:
            entry = {"oid": each["oid"], "size": each["size"]}
            if (hub, each["oid"]) not in self.held:
                entry["actions"] = {"upload": {"href": f"{self.address}/blob/{hub}/{each['oid']}"}}
                if hub == "hf":
                    entry["actions"]["verify"] = {"href": f"{self.address}/verify"}
            answer.append(entry)
        return answer

    def send(self, handler: Any, digest: str, failure: Failure | None, **headers: str) -> None:
        """The bytes of a file, in ranges if asked for; HEAD without them."""
        blob = self.blobs[digest]
        size = len(blob) if isinstance(blob, bytes) else blob.stat().st_size
        start, stop, status = 0, size, 200
        if asked := handler.headers.get("Range"):
            self.ranges.append(asked)
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), int(last) + 1 if last else size, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        handler.send_response(status)
        for name, text in {**headers, "Content-Length": str(stop - start), "Accept-Ranges": "bytes"}.items():
            handler.send_header(name, text)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if isinstance(blob, Path):
            with blob.open("rb") as file:
                handler.wfile.flush()
                handler.connection.sendfile(file, start, stop - start)
            return
        data = blob[start:stop]
        if failure and failure.kind == "corrupt":
            data = bytes(len(data))
        if failure and failure.kind == "drop":
            handler.wfile.write(data[:failure.value])
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(2)
            return
        handler.wfile.write(data)
        self.sent += len(data)

    # ---- Hugging Face

    def hugging_face(self, handler: Any, path: str, query: dict[str, str], body: bytes, failure: Failure | None) -> None:
        parts = path.strip("/").split("/")
        missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        match [handler.command, *parts]:
            case ["POST", "api", "repos", "create"]:
                if not self.allowed(handler):
                    return self.reply(handler, 401, {"error": "log in"})
                word = json.loads(body)
                name = f"{word.get('organization') or 'me'}/{word['name']}"
                if ("hf", name) in self.repos:
                    return self.reply(handler, 409, {"error": "You already created this model repo"})
                repo = self.repos.setdefault(("hf", name), Repo(bool(word.get("private")) or word.get("visibility") == "private"))
                data = b"*.bin filter=lfs\n"
                self.blobs[hashlib.sha256(data).hexdigest()] = data
                repo.add("main", {".gitattributes": hashlib.sha256(data).hexdigest()}, "initial commit")
                return self.reply(handler, 200, {"url": f"{self.address}/{name}"})
            case ["POST", "api", "validate-yaml"]:
                return self.reply(handler, 200, {"errors": [], "warnings": []})
            case ["POST", "verify"]:
                return self.reply(handler, 200, {})
            case ["GET", "api", "whoami-v2"]:
                return self.reply(handler, 200, {"name": "me", "type": "user", "orgs": [], "auth": {}})
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            name, rest = f"{parts[2]}/{parts[3]}", parts[4:]
        elif len(parts) >= 2:
            name, rest = f"{parts[0]}/{parts[1].removesuffix('.git')}", parts[2:]
        else:
            return self.reply(handler, 404, {})
        repo = self.repos.get(("hf", name))
        if repo is None or repo.private and not self.allowed(handler):
            return self.reply(handler, 404 if self.allowed(handler) else 401, {"error": "Repository not found"}, **missing)
        if handler.command == "POST" and not self.allowed(handler):
            return self.reply(handler, 401, {"error": "log in"})
        self.hugging_face_repo(handler, repo, name, rest, body, failure)

    def hugging_face_repo(self, handler: Any, repo: Repo, name: str, rest: list[str], body: bytes,
                          failure: Failure | None) -> None:
        match [handler.command, *rest]:
            case ["GET", "refs"]:
                kinds = (("branches", repo.refs, "heads"), ("tags", repo.tags, "tags"))
                return self.reply(handler, 200, {"converts": [], **{kind: [
                    {"name": each, "ref": f"refs/{word}/{each}", "targetCommit": commit} for each, commit in refs.items()]
                    for kind, refs, word in kinds}})
            case ["POST", "branch", branch]:
                repo.refs.setdefault(branch, repo.refs["main"])
                return self.reply(handler, 200, {})
            case ["POST", "tag", revision]:
                word = json.loads(body)
                if word["tag"] in repo.tags:
                    return self.reply(handler, 409, {"error": "Tag exists"})
                repo.tags[word["tag"]] = repo.refs.get(revision, revision)
                return self.reply(handler, 200, {})
            case ["POST", "info", "lfs", "objects", "batch"]:
                objects = json.loads(body)["objects"]
                return self.reply(handler, 200, {"transfer": "basic", "objects": self.links("hf", objects)})
            case ["GET"]:
                return self.reply(handler, 200, self.information(repo, name, "main"))
        verb, revision, *place = rest or ["", ""]
        files = repo.files(revision)
        if files is None:
            return self.reply(handler, 404, {"error": "no revision"}, **{"X-Error-Code": "RevisionNotFound"})
        match [handler.command, verb]:
            case ["GET", "revision"]:
                return self.reply(handler, 200, self.information(repo, name, revision))
            case ["GET", "tree"]:
                return self.reply(handler, 200, [self.entry(repo, each, digest) for each, digest in sorted(files.items())])
            case ["POST", "preupload"]:
                asked = json.loads(body)["files"]
                return self.reply(handler, 200, {"files": [
                    {"path": each["path"], "shouldIgnore": False, "uploadMode": "lfs" if each["size"] > 10_000_000
                     or each["path"].endswith((".bin", ".safetensors")) or b"\0" in base64.b64decode(each["sample"])
                     else "regular"}
                    for each in asked]})
            case ["POST", "commit"]:
                return self.hugging_face_commit(handler, repo, revision, body)
            case ["GET" | "HEAD", "resolve"]:
                return self.resolve(handler, repo, revision, "/".join(place), files, failure)
        self.reply(handler, 404, {})

    def hugging_face_commit(self, handler: Any, repo: Repo, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(each["value"] for each in lines if each["key"] == "header")
        if header.get("parentCommit") and header["parentCommit"] != repo.refs.get(branch):
            return self.reply(handler, 412, {"error": "A commit has happened since."})
        files = dict(repo.files(branch) or {})
        for each in lines:
            value = each["value"]
            if each["key"] == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = digest = hashlib.sha256(data).hexdigest()
                self.blobs[digest] = data
            elif each["key"] == "lfsFile":
                if ("hf", value["oid"]) not in self.held:
                    return self.reply(handler, 422, {"error": "LFS pointer pointed to a file that does not exist"})
                files[value["path"]] = value["oid"]
                repo.large.add(value["oid"])
            elif each["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repo.add(branch, self.as_kept(repo, files), header.get("summary", ""))
        self.reply(handler, 200, {"commitUrl": f"{self.address}/org/name/commit/{commit}", "commitOid": commit, "success": True})

    def as_kept(self, repo: Repo, files: dict[str, str]) -> dict[str, str]:
        kept = {name: self.substitute[1] if digest == self.substitute[0] else digest for name, digest in files.items()}
        repo.large |= {digest for name, digest in kept.items() if digest == self.substitute[1]}
        return kept

    def information(self, repo: Repo, name: str, revision: str) -> dict[str, Any]:
        files = repo.files(revision) or {}
        commit = repo.refs.get(revision) or repo.tags.get(revision) or revision
        return {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": repo.private, "tags": [], "downloads": 0,
                "likes": 0, "gated": False, "disabled": False, "siblings": [{"rfilename": each} for each in sorted(files)]}

    def size(self, digest: str) -> int:
        blob = self.blobs[digest]
        return len(blob) if isinstance(blob, bytes) else blob.stat().st_size

    def entry(self, repo: Repo, name: str, digest: str) -> dict[str, Any]:
        size = self.size(digest)
        entry = {"type": "file", "path": name, "size": size, "oid": self.git(digest)}
        if digest in repo.large:
            entry |= {"oid": digest[:40], "lfs": {"oid": digest, "size": size, "pointerSize": 134}}
        return entry

    def git(self, digest: str) -> str:
        blob = self.blobs[digest]
        return digest[:40] if isinstance(blob, Path) else hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    def resolve(self, handler: Any, repo: Repo, revision: str, place: str, files: dict[str, str],
                failure: Failure | None) -> None:
        commit = repo.refs.get(revision) or repo.tags.get(revision) or revision
        if place not in files:
            return self.reply(handler, 404, {}, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        digest = files[place]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self.git(digest)}"'}
        if digest in repo.large:
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(self.size(digest)), "ETag": f'"{digest}"'}
        self.send(handler, digest, failure if handler.command == "GET" else None, **headers)

    # ---- ModelScope

    def modelscope(self, handler: Any, path: str, query: dict[str, str], body: bytes, failure: Failure | None) -> None:
        parts = path.strip("/").split("/")
        word = json.loads(body) if body else {}
        match [handler.command, *parts]:
            case ["POST", "api", "v1", "models"]:
                if not self.allowed(handler):
                    return self.reply(handler, 401, {"Code": 401, "Success": False, "Message": "log in"})
                name = f"{word['Path']}/{word['Name']}"
                if ("ms", name) in self.repos:
                    return self.reply(handler, 409, {"Code": 10010101001, "Success": False, "Message": "already exists"})
                repo = self.repos.setdefault(("ms", name), Repo(word.get("Visibility") == 1))
                data = b"---\nlicense: Apache License 2.0\n---\n"
                self.blobs[hashlib.sha256(data).hexdigest()] = data
                repo.add("master", {"README.md": hashlib.sha256(data).hexdigest()}, "initial commit")
                return self.data(handler, {"Path": word["Path"], "Name": word["Name"]})
            case ["GET", "openapi", "v1", "models", owner, name]:
                found = self.visible(handler, f"{owner}/{name}")
                return (self.reply(handler, 200, {"success": True, "data": {"id": f"{owner}/{name}", "private": found.private}})
                        if found
                        else self.reply(handler, 404, {"success": False, "message": "not found"}))
            case ["GET", "api", "v1", "models", owner, name, *rest]:
                repo = self.visible(handler, f"{owner}/{name}")
                if repo is None:
                    return self.reply(handler, 404, {"Code": 404, "Success": False, "Message": "not found"})
                return self.modelscope_read(handler, repo, f"{owner}/{name}", rest, query, failure)
            case ["POST", "api", "v1", "models", owner, name, "repo", "tag"]:
                repo = self.visible(handler, f"{owner}/{name}")
                if repo is None or not self.allowed(handler):
                    return self.reply(handler, 401, {"Code": 401, "Success": False, "Message": "log in"})
                repo.tags[word["TagName"]] = repo.refs.get(word["Ref"], word["Ref"])
                return self.data(handler, {})
            case ["POST", "api", "v1", "repos", "models", owner, name, *rest]:
                repo = self.visible(handler, f"{owner}/{name}")
                if repo is None or not self.allowed(handler):
                    return self.reply(handler, 401, {"Code": 401, "Success": False, "Message": "log in"})
                if rest[0] == "info":
                    return self.data(handler, {"objects": self.links("ms", word["objects"])})
                return self.modelscope_commit(handler, repo, rest[1], word)
        self.reply(handler, 404, {"Code": 404, "Success": False})

    def visible(self, handler: Any, name: str) -> Repo | None:
        repo = self.repos.get(("ms", name))
        return None if repo is None or repo.private and not self.allowed(handler) else repo

    def data(self, handler: Any, value: Any) -> None:
        self.reply(handler, 200, {"Code": 200, "Success": True, "Data": value})

    def modelscope_read(self, handler: Any, repo: Repo, name: str, rest: list[str], query: dict[str, str],
                        failure: Failure | None) -> None:
        files = repo.files(query.get("Revision", "master"))
        if rest == ["revisions"]:
            return self.data(handler, {"RevisionMap": {
                "Branches": [{"Revision": each, "CreatedAt": 1} for each in repo.refs],
                "Tags": [{"Revision": each, "CreatedAt": 1} for each in repo.tags]}})
        if not rest:
            return self.data(handler, {"Path": name.split("/")[0], "Name": name.split("/")[1]})
        if files is None:
            return self.reply(handler, 404, {"Code": 404, "Success": False, "Message": "no such revision"})
        if rest == ["repo", "files"]:
            return self.data(handler, {"Files": [
                {"Name": each.rpartition("/")[2], "Path": each, "Type": "blob", "Size": self.size(digest), "Sha256": digest,
                 "IsLFS": digest in repo.large, "Revision": "r", "CommittedDate": 1} for each, digest in sorted(files.items())]})
        if rest == ["repo"] and query.get("FilePath") in files:
            return self.send(handler, files[query["FilePath"]], failure)
        self.reply(handler, 404, {"Code": 404, "Success": False, "Message": "no such file"})

    def modelscope_commit(self, handler: Any, repo: Repo, branch: str, word: dict[str, Any]) -> None:
        files = dict(repo.files(branch) or {})
        if len(word["actions"]) > 2000:
            return self.reply(handler, 400, {"Code": 400, "Success": False, "Message": "too many actions"})
        for each in word["actions"]:
            if each["action"] == "delete":
                files.pop(each["path"], None)
            elif each["type"] == "lfs":
                if ("ms", each["sha256"]) not in self.held:
                    return self.reply(handler, 400, {"Code": 400, "Success": False, "Message": "blob does not exist"})
                files[each["path"]] = each["sha256"]
                repo.large.add(each["sha256"])
            else:
                data = base64.b64decode(each["content"])
                files[each["path"]] = digest = hashlib.sha256(data).hexdigest()
                self.blobs[digest] = data
        self.data(handler, {"oid": repo.add(branch, self.as_kept(repo, files), word["commit_message"])})


class _Deaf:
    """A handler whose answers go nowhere."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.command, self.path, self.headers = handler.command, handler.path, handler.headers
        self.wfile = open(os.devnull, "wb")

    def send_response(self, status: int) -> None: ...
    def send_header(self, name: str, value: str) -> None: ...
    def end_headers(self) -> None: ...


@dataclass
class Place:
    """The double, a home that nobody else uses, and the environment in which the clients find both."""

    double: Double
    home: Path
    variables: dict[str, str]

    def run(self, *words: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """``python WORDS`` in this environment."""
        done = self.start(*words, **variables)
        out, err = done.communicate(timeout=300)
        assert not check or done.returncode == 0, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, **self.variables, **variables}, cwd=self.home)

    def danqing(self, *words: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command in a process of its own."""
        return self.run("-m", "danqing", *words, check=check, **variables)


@pytest.fixture(scope="module")
def shared_double() -> Iterator[Double]:
    """One server for a module."""
    double = Double()
    yield double
    double.close()


@pytest.fixture
def place(shared_double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty pair of hubs, with the right tokens, for this process and for children."""
    from huggingface_hub import constants

    shared_double.forget()
    shared_double.substitute = ("", "")
    home = tmp_path / "home"
    home.mkdir()
    variables = {
        "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": shared_double.address,
        "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "MODELSCOPE_ENDPOINT": shared_double.address, "MODELSCOPE_API_TOKEN": TOKEN, "MODELSCOPE_CACHE": str(home / "ms"),
        "MODELSCOPE_HOME": str(home / "modelscope"), "TQDM_DISABLE": "1", "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
        "MODELSCOPE_UPLOAD_BLOB_RETRY_BACKOFF_BASE_SECONDS": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return Place(shared_double, home, variables)


@pytest.fixture
def double(place: Place) -> Double:
    """The hubs."""
    return place.double


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clients wait in no time, or give up early where they wait otherwise; how long they would have waited."""
    from modelscope_hub import _download

    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 2)
    waits: list[float] = []
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(seconds) or real(min(seconds, 0.001)))  # type: ignore[func-returns-value]
    return waits


@pytest.fixture(params=["hf", "ms"])
def hub(request: pytest.FixtureRequest) -> str:
    """Each hub in turn, by its prefix."""
    return str(request.param)


@pytest.fixture
def model(painter_folder: Path, tmp_path: Path) -> Path:
    """A diffusers folder with a card."""
    import shutil

    folder = Path(shutil.copytree(painter_folder, tmp_path / "model"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A small painter\n", encoding="utf-8")
    return folder
