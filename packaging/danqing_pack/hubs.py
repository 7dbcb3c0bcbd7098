"""The two hubs, reached through their own clients, with their own caches, tokens and mirrors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .errors import HubError


def snapshot(hub: str, repository: str, revision: str | None = None) -> Path:
    """Fetch a whole repository into the hub's own cache; the folder it lies in.

    Raises:
        HubError: there is no such repository or revision, it is not for this token, or the hub cannot be reached.
    """
    try:
        return Path(HUBS[hub](repository, revision))
    except HubError:
        raise
    except Exception as error:
        # Both clients raise whatever their transport raises. The first line names the fact and never a token.
        fact = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise HubError(f"{hub}:{repository} cannot be fetched: {fact}.", hub=hub, repository=repository) from error


def _hugging_face(repository: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(repository, revision=revision)


def _modelscope(repository: str, revision: str | None) -> str:
    from modelscope import snapshot_download

    return str(snapshot_download(repository, **({"revision": revision} if revision else {})))


HUBS: dict[str, Callable[[str, str | None], str]] = {"hf": _hugging_face, "ms": _modelscope}
"""How each hub's client fetches a repository, by the prefix that names the hub."""
