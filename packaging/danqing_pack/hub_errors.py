"""From what a hub's client raises to one sentence: the fact, the place, the remedy, and never a token."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import DanqingError, HubError, MissingExtraError
from .hub import Hub

Answer = TypeVar("Answer")
_BEARER = re.compile(r"(?i)(bearer\s+|m_session_id=|authorization['\"]?\s*[:=]\s*['\"]?)[^\s'\",;]+")
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_SIGNED = re.compile(r"\?[^\s'\")]*(?:signature|token|key|policy)=[^\s'\")]*", re.IGNORECASE)
_HF_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def reach(hub: Hub, what: str, step: Callable[[], Answer], after: str = "") -> Answer:
    """Do ``step``, which talks to ``hub``; ``what`` begins the sentence of a failure and ``after`` ends it.

    The HubError stands alone: what the client raised may carry the request with its token, so neither cause nor context
    is kept. ``status`` is the answer's number, or None where none came.
    """
    try:
        return step()
    except DanqingError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what}: the client of {hub.title} needs the module {error.name}; install it.") from None
    except Exception as error:          # each client raises whatever its transport raises
        failure = _failure(hub, what, error, after)
    raise failure


def _failure(hub: Hub, what: str, error: BaseException, after: str) -> HubError:
    status, wait = status_of(error), retry_after(error)
    fact = _fact(hub, error, status, wait)
    sentence = f"{what}: {fact}" + (f"; {after}" if after else "") + "."
    return HubError(redact(sentence, hub.secrets()), status=status, retry_after=wait)


def _fact(hub: Hub, error: BaseException, status: int | None, wait: float | None) -> str:
    name, place = hub.title, redact(hub.endpoint())
    disk = _first(error, lambda each: each if isinstance(each, OSError) and each.errno in _DISK else None)
    if disk is not None:
        return f"the disk refuses to write ({os.strerror(disk.errno or errno.EIO)}); make room or choose another place"
    if kind_of(error) == "offline" or hub.offline() and status is None:
        return f"{hub.offline() or 'the offline mode'} forbids the network, and the cache does not hold it; unset it"
    if kind_of(error) == "digest":
        return "the bytes that arrived are not those that the hub lists (their digest or size differs); try again"
    if kind_of(error) == "gated":
        return f"its owner asks to be asked for access; do so on its page of {name}, and {hub.remedies['token']}"
    if status == 401 and kind_of(error) != "repository":
        return f"{name} does not accept the token, or needs one; {hub.remedies['token']}"
    if status == 403:
        return f"the token may not do this on {name}; use one with write access to this owner"
    if status in (401, 404):            # without a token, a hub answers 401 to a name that nobody has
        if kind_of(error) in ("revision", "file"):
            return f"{name} has no such {kind_of(error)}; check its name"
        return (f"{name} has no such repository for this token; check the name, and if it is private, "
                f"{hub.remedies['token']}")
    if status in (409, 412):
        return "the repository was changed by somebody else meanwhile; run the same command again"
    if status == 413:
        return f"{name} finds the request too large; send fewer files at once with --include"
    if status == 429:
        return f"{name} is asked too often; try again {f'in {wait:.0f} s' if wait else 'later'}"
    if status is not None and status >= 500:
        return f"{name} answers with an error of its own ({status}); try again later"
    if status is None and kind_of(error) == "network":
        return f"{name} at {place} cannot be reached, or broke off ({_words(error)}); check the connection and try again"
    return f"{name} says: {_words(error)}"


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)


def _words(error: BaseException) -> str:
    """The last error's own words, one line of them."""
    deepest = list(_chain(error))[-1]
    for each in (deepest, error):
        line = next(iter(str(each).strip().splitlines()), "").strip().rstrip(".")
        if line:
            return line[:300]
    return type(deepest).__name__


def kind_of(error: BaseException) -> str:
    """``offline``, ``digest``, ``gated``, ``repository``, ``revision``, ``file``, ``network``, or nothing.

    By the names that both clients use.
    """
    names = {base.__name__ for each in _chain(error) for base in type(each).__mro__}
    for kind, marks in _KINDS.items():
        if names & marks:
            return kind
    return ""


_KINDS: Mapping[str, frozenset[str]] = {
    "offline": frozenset({"OfflineModeIsEnabled"}),
    "digest": frozenset({"FileIntegrityError", "FileSizeMismatchError"}),
    "gated": frozenset({"GatedRepoError"}),
    "repository": frozenset({"RepositoryNotFoundError"}),
    "revision": frozenset({"RevisionNotFoundError"}),
    "file": frozenset({"RemoteEntryNotFoundError"}),
    "network": frozenset({"NetworkError", "RequestTimeoutError", "TransportError", "RequestException", "ConnectionError",
                          "TimeoutError", "HTTPError", "ProtocolError", "timeout", "HTTPException",
                          "LocalEntryNotFoundError"}),
}


def status_of(error: BaseException) -> int | None:
    """The number of the answer that an error is about."""
    def own(each: BaseException) -> int | None:
        found = getattr(getattr(each, "response", None), "status_code", None) or getattr(each, "status_code", None)
        return found if isinstance(found, int) else None

    found = _first(error, own)
    if found is None and (match := re.search(r"\btoo many (\d{3}) error responses", _whole(error))):
        return int(match[1])            # urllib3 gave up asking
    return found


def retry_after(error: BaseException) -> float | None:
    """Seconds that the hub asks to wait."""
    def own(each: BaseException) -> float | None:
        asked: Any = getattr(each, "retry_after", None)
        if asked is None:
            asked = getattr(getattr(each, "response", None), "headers", {}).get("Retry-After")
        try:
            return None if asked is None else float(asked)
        except (TypeError, ValueError):
            return None

    return _first(error, own)


def _first(error: BaseException, look: Callable[[BaseException], Answer | None]) -> Answer | None:
    return next((found for each in _chain(error) if (found := look(each)) is not None), None)


def _whole(error: BaseException) -> str:
    return " ".join(map(str, _chain(error)))


def _chain(error: BaseException, depth: int = 12) -> Iterator[BaseException]:
    """An error and what it came from; of several files that failed, each one's."""
    yield error
    if depth:
        for each in [*getattr(error, "failed_files", {}).values(), error.__cause__ or error.__context__]:
            if isinstance(each, BaseException):
                yield from _chain(each, depth - 1)


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The text without tokens, signed addresses and passwords in addresses."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _HF_TOKEN.sub("***", _SIGNED.sub("", _USER.sub("", _BEARER.sub(r"\1***", text))))


def unwritable(place: Path, error: OSError) -> HubError:
    """A disk that does not take what came from a hub."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return HubError(f"{place} was not written ({why}): make room, or choose another place.", path=place)
