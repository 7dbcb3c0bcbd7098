"""The Hugging Face hub, by huggingface_hub 1.32 and later, 2.x included."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hub import Hub, Listing, Outgoing, Remote, Revisions, Upload
from .hub_errors import redact
from .needless import ENDINGS

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

COMMIT = re.compile(r"[0-9a-f]{40}")
SAMPLE = 512
"""How many first bytes the hub looks at to tell text from weights."""


class HuggingFace:
    """``hf:``. Variables: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and the client's others."""

    title = "Hugging Face"
    branch = "main"
    largest_file = 50 * 10**9
    files_per_commit = None
    verifies = False
    guards = True
    makes_branches = True
    remedies: Mapping[str, str] = {
        "token": "set HF_TOKEN, or run `hf auth login`", "resume": "a file that was under way begins anew"}

    def endpoint(self) -> str:
        """HF_ENDPOINT as it is now; the client itself reads it once, when it is imported."""
        from huggingface_hub import constants

        return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    def address(self, repository: str, revision: str | None = None) -> str:
        return f"{redact(self.endpoint())}/{repository}" + (f"/tree/{revision}" if revision else "")

    def secrets(self) -> tuple[str, ...]:
        from huggingface_hub import get_token

        return tuple(filter(None, (get_token(), os.environ.get("HF_TOKEN"))))

    def offline(self) -> str:
        from huggingface_hub import constants

        return "HF_HUB_OFFLINE=1" if constants.HF_HUB_OFFLINE else ""

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint(), library_name="danqing")

    def create(self, repository: str, private: bool) -> None:
        self._api().create_repo(repository, private=private, exist_ok=True)

    def revisions(self, repository: str) -> Revisions | None:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            refs = self._api().list_repo_refs(repository)
        except GatedRepoError:          # a kind of the next, for a repository that is there
            raise
        except RepositoryNotFoundError:
            return None
        return Revisions({each.name: each.target_commit for each in refs.branches}, tuple(each.name for each in refs.tags))

    def is_public(self, repository: str) -> bool:
        return not self._api().model_info(repository).private

    def create_branch(self, repository: str, name: str) -> None:
        self._api().create_branch(repository, branch=name, exist_ok=True)

    def list(self, repository: str, revision: str | None) -> Listing:
        from huggingface_hub.hf_api import RepoFile

        api = self._api()
        commit = revision if revision and COMMIT.fullmatch(revision) else api.model_info(repository, revision=revision).sha
        commit = commit or revision or self.branch
        files = {}
        for entry in api.list_repo_tree(repository, recursive=True, revision=commit):
            if isinstance(entry, RepoFile):
                files[entry.path] = Remote(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        return Listing(commit, files)

    def read(self, repository: str, commit: str, name: str) -> bytes:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="danqing-") as scratch:
            path = self._api().hf_hub_download(repository, name, revision=commit, local_dir=scratch)
            return Path(path).read_bytes()

    def fetch(self, repository: str, listing: Listing, names: Sequence[str], folder: Path) -> None:
        # Names as patterns: what is no pattern stays as it is. The client's notes in .cache stay for its next attempt.
        self._api().snapshot_download(repository, revision=listing.commit, local_dir=folder,
                                      allow_patterns=[glob.escape(name) for name in names])

    def upload(self, repository: str, revision: str, parent: str | None) -> Upload:
        return _Upload(self._api(), repository, revision, parent)

    def tag(self, repository: str, tag: str, revision: str, commit: str) -> None:
        self._api().create_tag(repository, tag=tag, revision=commit)

    def snapshot(self, repository: str, revision: str | None, without: Sequence[str] | None = ()) -> Path:
        from huggingface_hub.errors import LocalEntryNotFoundError

        def found(patterns: Sequence[str]) -> Path:
            return Path(self._api().snapshot_download(repository, revision=revision, ignore_patterns=[*patterns] or None))

        try:
            return found([glob.escape(name) for name in without or ()])
        except LocalEntryNotFoundError:
            if without is not None:
                raise
        # The cache lacks something, and perhaps only what was left out when it was fetched: whoever opens it will see.
        return found([f"*{ending}" for ending in ENDINGS])


class _Upload:
    """Large files by ``preupload_lfs_files``, everything visible by one ``create_commit``."""

    def __init__(self, api: HfApi, repository: str, revision: str, parent: str | None) -> None:
        self._api, self._repository, self._revision, self._parent = api, repository, revision, parent
        self._additions: list[CommitOperationAdd] = []

    def add(self, files: Sequence[Outgoing]) -> None:
        additions = [_addition(file) for file in files]
        self._api.preupload_lfs_files(self._repository, additions, revision=self._revision)
        for addition, file in zip(additions, files, strict=True):
            if addition._upload_mode == "regular":      # it goes with the commit, by which time the file may be gone
                addition.path_or_fileobj = file.read()
        self._additions += additions

    def commit(self, message: str, removed: Sequence[str] = ()) -> str:
        from huggingface_hub import CommitOperationDelete

        operations: list[Any] = [*self._additions, *map(CommitOperationDelete, removed)]
        done = self._api.create_commit(self._repository, operations, commit_message=message, revision=self._revision,
                                       parent_commit=self._parent)
        return done.oid


def _addition(file: Outgoing) -> CommitOperationAdd:
    """The client's own operation, told the digest, which it would otherwise read the whole file for once more."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.lfs import UploadInfo

    if isinstance(file.content, bytes):
        return CommitOperationAdd(file.name, file.content)
    with file.content.open("rb") as opened:
        sample = opened.read(SAMPLE)
    addition = CommitOperationAdd(file.name, b"")
    addition.path_or_fileobj = str(file.content)
    addition.upload_info = UploadInfo(sha256=bytes.fromhex(file.sha256), size=file.size, sample=sample)
    return addition


_: type[Hub] = HuggingFace
