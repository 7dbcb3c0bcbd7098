"""What a family is: a frozen value that the rest of the SDK asks, never a name that it tests for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .sides import Legacy, Modern

Form = Legacy | Modern


@dataclass(frozen=True)
class Options:
    """What a user may say about a conversion; families read what concerns them."""

    text_length: int | None = None
    """Text positions, for a painter whose files leave it open."""
    weights: str = "auto"
    """``auto``, ``ema`` or ``plain``, for checkpoints that hold both."""
    drop_unused: bool = False
    """Leave out what has no modern home; the way back is then partial."""


@dataclass(frozen=True)
class Signature:
    """What a checkpoint must show to belong to a family: data, not code."""

    legacy_keys: tuple[str, ...] = ()
    """Keys that its state dict holds, all of them, below one of ``legacy_prefixes``."""
    legacy_prefixes: tuple[str, ...] = ("",)
    modern_components: Mapping[str, str] = field(default_factory=dict)
    """Components of its ``model_index.json`` and their classes, all of them."""

    def matches(self, form: Form) -> bool:
        """Whether this form shows every mark of the family."""
        if isinstance(form, Legacy):
            return bool(self.legacy_keys) and any(
                all(prefix + key in form.tensors for key in self.legacy_keys) for prefix in self.legacy_prefixes)
        found = {name: part.class_name for name, part in form.components.items()}
        return bool(self.modern_components) and self.modern_components.items() <= found.items()


@dataclass(frozen=True)
class Family:
    """One family of networks: its marks, its dimensions, and the way between its two sides.

    The functions take a form and ``Options``. They raise ``ConversionError`` or ``FormatError``, and read no tensor
    data beyond small buffers.
    """

    name: str
    title: str
    signature: Signature
    tasks: tuple[str, ...]
    """ModelScope tasks, the default one first."""
    layouts: tuple[str, ...]
    """Layouts that a conversion may write."""
    dimensions: Callable[[Form, Options], Any]
    """A frozen dataclass of plain values, with ``describe() -> str``."""
    to_modern: Callable[[Form, Options], Modern]
    """Any form to the modern one of today; a modern form may be renewed."""
    to_legacy: Callable[[Form, Options], Legacy]
    problems: Callable[[Form, Options], list[str]]
    """What would make this checkpoint fail later, beyond what the other functions raise."""
    notes: Callable[[Form, Options], list[str]] = lambda form, options: []
    """Lines a user should read after a conversion: which weights were used, what was kept aside."""


def dimensions_json(dimensions: Any) -> dict[str, Any]:
    """A family's dimensions as plain JSON values."""
    return asdict(dimensions)
