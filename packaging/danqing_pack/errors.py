"""Every error of the SDK.

    DanqingError
    ├── FormatError         what lies there is unknown, ambiguous or damaged
    ├── ConversionError     keys, shapes or values that have no place on the other side
    ├── UnsafeError         a pickle or an archive that asks for more than data
    ├── CardError           a model card that no hub would accept
    ├── HubError            a hub that refused, or did not answer
    ├── RequestError        arguments that cannot be carried out
    └── MissingExtraError   a feature whose libraries are not installed

Each message is one sentence: the fact, the place, the remedy. Data that a program may want stays on the error as
attributes, so that nobody has to read the sentence to find a key.
"""

from __future__ import annotations

from typing import Any


class DanqingError(Exception):
    """A problem that its reader can mend; the keyword arguments become attributes."""

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data
        for name, value in data.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), str(self), self.data))


class FormatError(DanqingError):
    """A file, folder or bundle that is unknown, ambiguous or damaged."""


class ConversionError(DanqingError):
    """Keys without a place, missing keys, shapes that do not fit; ``problems`` lists all of them."""


class UnsafeError(DanqingError):
    """A pickle global outside the allow-list, or an archive member that would leave its folder."""


class CardError(DanqingError):
    """A model card that cannot be filled in or that a hub would refuse."""


class HubError(DanqingError):
    """A hub that refused a request or could not be reached."""


class RequestError(DanqingError):
    """An argument of a call or a command that cannot be carried out."""


class MissingExtraError(DanqingError):
    """A feature that needs an optional dependency; ``extra`` names it."""


def _rebuild(kind: type[DanqingError], message: str, data: dict[str, Any]) -> DanqingError:
    """Errors travel between processes with their attributes."""
    return kind(message, **data)


def listing(names: list[str] | tuple[str, ...], limit: int = 12) -> str:
    """Names for a sentence: all of them up to ``limit``, then a count."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
