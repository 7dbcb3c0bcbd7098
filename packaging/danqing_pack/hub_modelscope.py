"""ModelScope, by modelscope_hub 0.4.6 and later.

Uploads use the client's calls one by one and not its ``upload_folder``, which goes on without a file that failed and
divides one push into several commits: a repository could then be left with a mixture of two models.
"""

from __future__ import annotations

import base64
import glob
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .hub import Hub, Listing, Outgoing, Remote, Revisions, Upload
from .hub_errors import kind_of, redact, retry_after, status_of

if TYPE_CHECKING:
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

Answer = TypeVar("Answer")
MODEL = "model"
AT_ONCE = 4
"""Files in transfer at the same time, as in the client."""


class ModelScope:
    """``ms:``. Variables: MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, MODELSCOPE_CACHE, MODELSCOPE_HOME and the others."""

    title = "ModelScope"
    branch = "master"
    largest_file = 50 * 10**9
    verifies = True
    guards = False
    makes_branches = False
    remedies: Mapping[str, str] = {
        "token": "set MODELSCOPE_API_TOKEN, or run `modelscope login`",
        "resume": "a file that was under way goes on where it stopped"}

    @property
    def files_per_commit(self) -> int | None:
        """What the hub allows, in the client's words."""
        from modelscope_hub import constants

        return int(constants.COMMIT_MAX_ACTIONS_PER_REQUEST)

    def endpoint(self) -> str:
        return str(_settings().endpoint).rstrip("/")

    def address(self, repository: str, revision: str | None = None) -> str:
        return f"{redact(self.endpoint())}/models/{repository}" + (f"/files?version={revision}" if revision else "")

    def secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (_settings().token, os.environ.get("MODELSCOPE_API_TOKEN"))))

    def offline(self) -> str:
        return ""                       # the client has no such mode

    def _api(self) -> HubApi:
        """A client that reads the environment as it is now."""
        from modelscope_hub import HubApi

        return HubApi(_settings())

    def create(self, repository: str, private: bool) -> None:
        from modelscope_hub.errors import AlreadyExistsError

        try:
            self._api().create_repo(repository, MODEL, visibility="private" if private else "public")
        except AlreadyExistsError:
            pass

    def revisions(self, repository: str) -> Revisions | None:
        api = self._api()
        if not api.repo_exists(repository, MODEL):
            return None
        branches, tags = api.legacy.list_revisions_detail(repository, MODEL)
        return Revisions({each["Revision"]: None for each in branches}, tuple(each["Revision"] for each in tags))

    def is_public(self, repository: str) -> bool:
        found = self._api().get_repo(repository, MODEL)
        visible: Any = getattr(found, "visibility", None)
        return getattr(found, "private", None) is False or getattr(visible, "name", visible) in ("PUBLIC", "public", 5)

    def create_branch(self, repository: str, name: str) -> None:
        raise NotImplementedError("ModelScope's client cannot make branches.")

    def list(self, repository: str, revision: str | None) -> Listing:
        commit = revision or self.branch
        found = self._api().list_repo_files(repository, MODEL, revision=commit)
        files = {each.path: Remote(each.path, each.size, each.sha256 or None) for each in found if each.type != "tree"}
        return Listing(commit, files)

    def read(self, repository: str, commit: str, name: str) -> bytes:
        with self._api().legacy.download_stream(repository, MODEL, name, commit) as answer:
            return bytes(answer.content)

    def fetch(self, repository: str, listing: Listing, names: Sequence[str], folder: Path) -> None:
        api = self._api()
        sized = "file_size" in inspect.signature(api.download_file).parameters

        def one(name: str) -> None:
            remote = listing.files[name]
            size: dict[str, Any] = {"file_size": remote.size} if sized else {}
            api.download_file(repository, MODEL, name, revision=listing.commit, local_dir=folder,
                              expected_sha256=remote.sha256, **size)

        _at_once(one, names)

    def upload(self, repository: str, revision: str, parent: str | None) -> Upload:
        return _Upload(self._api(), repository, revision)

    def tag(self, repository: str, tag: str, revision: str, commit: str) -> None:
        self._api().create_repo_tag(repository, MODEL, tag, revision=revision)

    def snapshot(self, repository: str, revision: str | None, without: Sequence[str] | None = ()) -> Path:
        from modelscope import snapshot_download

        options: dict[str, Any] = {"revision": revision} if revision else {}
        if without:
            options["ignore_patterns"] = [glob.escape(name) for name in without]
        return Path(snapshot_download(repository, **options))


def _settings() -> HubConfig:
    """Endpoint and token as the client finds them now."""
    from modelscope_hub.config import HubConfig

    return HubConfig()


class _Upload:
    """Large files to the addresses that the hub hands out, everything visible by one commit."""

    def __init__(self, api: HubApi, repository: str, revision: str) -> None:
        self._client, self._repository, self._revision = api.legacy, repository, revision
        self._actions: list[dict[str, Any]] = []

    def add(self, files: Sequence[Outgoing]) -> None:
        from modelscope_hub.constants import UPLOAD_BLOB_VALIDATION_BATCH_MAX_OBJECTS as batch

        large = list({file.sha256: file for file in files if _is_large(file)}.values())
        links: dict[str, str | None] = {}
        for start in range(0, len(large), batch):
            links |= self._links(large[start:start + batch])
        _at_once(lambda file: self._send(file, links.get(file.sha256)), large)
        self._actions += map(_action, files)

    def _links(self, files: Sequence[Outgoing]) -> dict[str, str | None]:
        """Where to send each file; none for one that the hub holds."""
        objects = [{"oid": file.sha256, "size": file.size} for file in files]
        answer = _patiently(lambda: self._client.validate_blobs(self._repository, MODEL, objects))
        return dict(answer)

    def _send(self, file: Outgoing, link: str | None) -> None:
        links = [link]                  # an address serves once: a further attempt asks for a new one

        def attempt() -> None:
            address = links.pop() if links else self._links([file]).get(file.sha256)
            if address is None:
                return
            if isinstance(file.content, bytes):
                self._client.upload_blob(address, file.content, file.size)
                return
            with file.content.open("rb") as opened:
                self._client.upload_blob(address, opened, file.size)

        _patiently(attempt)

    def commit(self, message: str, removed: Sequence[str] = ()) -> str:
        actions = [*self._actions, *({"action": "delete", "path": name} for name in removed)]
        answer = _patiently(lambda: self._client.create_commit(
            self._repository, MODEL, actions, message, self._revision), lost_too=False)
        return str(answer.get("oid") or self._revision)


def _is_large(file: Outgoing) -> bool:
    """Whether the bytes go ahead of the commit: the client's own rule, from its own constants."""
    from modelscope_hub import constants

    name = file.name.rpartition("/")[2]
    if name.upper() in constants.UPLOAD_INLINE_METADATA_PATHS:
        return False
    return (file.size > constants.UPLOAD_LFS_FORCE_THRESHOLD_BYTES
            or Path(name).suffix.lower() in constants.MODEL_LFS_SUFFIX)


def _action(file: Outgoing) -> dict[str, Any]:
    if _is_large(file):
        return {"action": "create", "path": file.name, "type": "lfs", "size": file.size, "sha256": file.sha256,
                "content": "", "encoding": ""}
    return {"action": "create", "path": file.name, "type": "normal", "size": file.size, "sha256": "",
            "content": base64.b64encode(file.read()).decode(), "encoding": "base64"}


def _at_once(step: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Do a step for each item, a few at a time; the first failure stops the rest and is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        steps = [pool.submit(step, item) for item in items]
        try:
            for each in steps:
                each.result()
        except BaseException:
            for each in steps:
                each.cancel()
            raise


def _patiently(step: Callable[[], Answer], lost_too: bool = True) -> Answer:
    """Do a step as often as the client's settings allow; ``lost_too``: also after an answer that never came."""
    from modelscope_hub import constants

    attempt = 0
    while True:
        attempt += 1
        try:
            return step()
        except Exception as error:      # sorted by what it says, since the client's transport has its own kinds
            status, asked = status_of(error), retry_after(error)
            passing = status in (429, 500, 502, 503, 504) or status is None and lost_too and kind_of(error) == "network"
            wait = asked if asked is not None else float(min(
                constants.UPLOAD_BLOB_RETRY_BACKOFF_BASE_SECONDS ** attempt,
                constants.UPLOAD_BLOB_RETRY_MAX_DELAY_SECONDS))
            if (not passing or attempt >= constants.UPLOAD_BLOB_MAX_ATTEMPTS
                    or wait > constants.UPLOAD_COMMIT_MAX_RETRY_AFTER_SECONDS):
                raise
        time.sleep(wait)


_: type[Hub] = ModelScope
