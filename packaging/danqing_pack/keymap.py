"""Two-column key tables and their algebra: one table, both directions.

A table is a value. Its rows name tensors on the legacy side (left) and the modern side (right); an ``Op`` says how
values change on the way, and knows its inverse. Tables are written module by module and grow by ``under`` and ``+``::

    RESNET = norm("norm1", "norm1", 64) + conv("conv1", "conv1", 64, 64)
    TABLE = RESNET.under("mid.block_1", "mid_block.resnets.0") + linear("head", "head", 128, 32, bias=False)

Nothing is parsed out of names and nothing is optional: a table is enumerated from a checkpoint's dimensions, so every
key of the checkpoint is in a row, kept aside by a named rule of the family, or an error. Rows may state the shape that
the legacy tensor must have; then a wrong shape is found on the way in either direction. Ops work on lazy tensors, so
building a converted state reads no data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from .errors import ConversionError, listing
from .tensors import Tensor

State = Mapping[str, Tensor]
Values = tuple[Tensor, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """A change of values together with its inverse; both take and give tuples of lazy tensors."""

    name: str
    forward: Callable[..., Values]
    inverse: Callable[..., Values]


def _split(parts: int) -> Callable[[Tensor], Values]:
    return lambda fused: tuple(fused.split(parts))


SAME = Op("same", lambda x: (x,), lambda x: (x,))
TRANSPOSED = Op("transposed", lambda x: (x.transpose(),), lambda x: (x.transpose(),))
SQUEEZED = Op(
    "1x1 convolution <-> linear",
    lambda x: (x.reshape(x.shape[:2]),),
    lambda x: (x.reshape((*x.shape, 1, 1)),),
)
BATCHED = Op(
    "leading axis of one <-> none",
    lambda x: (x.reshape(x.shape[1:]),),
    lambda x: (x.reshape((1, *x.shape)),),
)
JOINED = Op("q, k, v <-> fused", lambda *parts: (Tensor.concatenate(parts),), _split(3))
JOINED_TRANSPOSED = Op(
    "q, k, v <-> fused, transposed",
    lambda *parts: (Tensor.concatenate(parts).transpose(),),
    lambda fused: tuple(fused.transpose().split(3)),
)
FORKED = Op("fused <-> q, k, v", _split(3), lambda *parts: (Tensor.concatenate(parts),))


@dataclass(frozen=True)
class Row:
    """One line of a table: exact keys left and right, and the shape that each legacy key must have, where known."""

    legacy: tuple[str, ...]
    modern: tuple[str, ...]
    op: Op = SAME
    shape: Shape | None = None


@dataclass(frozen=True)
class KeyMap:
    """Rows that are checked, when the table is built, to name nothing twice."""

    rows: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        for side, names in (("legacy", self.legacy_keys), ("modern", self.modern_keys)):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            if twice:
                raise ConversionError(f"A key table names {listing(twice)} more than once on its {side} side.", keys=twice)

    def __add__(self, other: KeyMap) -> KeyMap:
        return KeyMap(self.rows + other.rows)

    @property
    def legacy_keys(self) -> tuple[str, ...]:
        """Every key of the legacy side, in the order of the rows."""
        return tuple(name for row in self.rows for name in row.legacy)

    @property
    def modern_keys(self) -> tuple[str, ...]:
        """Every key of the modern side, in the order of the rows."""
        return tuple(name for row in self.rows for name in row.modern)

    def under(self, legacy: str, modern: str) -> KeyMap:
        """The same table one level deeper; an empty prefix leaves its side as it is."""
        return KeyMap(tuple(
            replace(row, legacy=_under(legacy, row.legacy), modern=_under(modern, row.modern)) for row in self.rows
        ))

    def to_modern(self, state: State, place: str = "the checkpoint") -> dict[str, Tensor]:
        """The state under its modern names.

        Raises:
            ConversionError: with every missing key, unknown key and wrong shape in ``problems``.
        """
        return self._carry(state, place, forward=True)

    def to_legacy(self, state: State, place: str = "the checkpoint") -> dict[str, Tensor]:
        """The state under its legacy names; raises as ``to_modern`` does."""
        return self._carry(state, place, forward=False)

    def _carry(self, state: State, place: str, forward: bool) -> dict[str, Tensor]:
        known = self.legacy_keys if forward else self.modern_keys
        missing = sorted(set(known).difference(state))
        unknown = sorted(set(state).difference(known))
        problems = [f"{key} is missing" for key in missing] + [f"{key} has no place" for key in unknown]
        out: dict[str, Tensor] = {}
        for row in self.rows:
            names = row.legacy if forward else row.modern
            if all(name in state for name in names):
                out.update(_line(row, tuple(state[name] for name in names), forward, problems))
        if problems:
            raise ConversionError(
                f"{place} does not fit its family: {'; '.join(problems)}; compare it with the folder it was saved from.",
                problems=problems, missing=missing, unknown=unknown, place=place,
            )
        return out


def _line(row: Row, values: Values, forward: bool, problems: list[str]) -> Iterable[tuple[str, Tensor]]:
    """One row carried across; a value that does not fit becomes a problem instead."""
    names = row.legacy if forward else row.modern
    given = ", ".join(f"{name} {list(value.shape)}" for name, value in zip(names, values, strict=True))
    if forward and (wrong := _wrong(row.legacy, values, row.shape)):
        problems.extend(wrong)
        return ()
    try:
        changed = (row.op.forward if forward else row.op.inverse)(*values)
    except (ValueError, IndexError):
        problems.append(f"{given} cannot become {', '.join(row.modern if forward else row.legacy)}")
        return ()
    if not forward and _wrong(row.legacy, changed, row.shape):
        problems.append(f"{given} has a wrong shape")
        return ()
    return zip(row.modern if forward else row.legacy, changed, strict=True)


def _wrong(names: tuple[str, ...], values: Values, shape: Shape | None) -> list[str]:
    if shape is None:
        return []
    return [
        f"{name} has shape {list(value.shape)} instead of {list(shape)}"
        for name, value in zip(names, values, strict=True) if tuple(value.shape) != shape
    ]


def _under(prefix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names) if prefix else names


def _names(side: str | tuple[str, ...]) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else side


# ---------------------------------------------------------------- rows, written module by module

def key(
    legacy: str | tuple[str, ...], modern: str | tuple[str, ...], op: Op = SAME, shape: Shape | None = None
) -> KeyMap:
    """One tensor, or a group that an op joins or forks, by its exact names."""
    return KeyMap((Row(_names(legacy), _names(modern), op, shape),))


def module(
    legacy: str | tuple[str, ...], modern: str | tuple[str, ...], shape: Shape | None = None, *,
    bias: bool = True, op: Op = SAME, bias_op: Op = SAME,
) -> KeyMap:
    """A module's ``weight``, of this legacy shape, and its ``bias``, as long as the weight's first axis."""
    def leaf(side: str | tuple[str, ...], name: str) -> tuple[str, ...]:
        return tuple(f"{each}.{name}" for each in _names(side))

    rows = [Row(leaf(legacy, "weight"), leaf(modern, "weight"), op, shape)]
    if bias:
        rows.append(Row(leaf(legacy, "bias"), leaf(modern, "bias"), bias_op, shape and shape[:1]))
    return KeyMap(tuple(rows))


def norm(legacy: str, modern: str, channels: int) -> KeyMap:
    """A group or layer norm over this many channels."""
    return module(legacy, modern, (channels,))


def conv(legacy: str, modern: str, channels_in: int, channels_out: int, size: int = 3) -> KeyMap:
    """A square convolution with a bias."""
    return module(legacy, modern, (channels_out, channels_in, size, size))


def linear(
    legacy: str, modern: str, features_in: int, features_out: int, *, bias: bool = True, op: Op = SAME
) -> KeyMap:
    """A linear layer; ``op=TRANSPOSED`` where the modern side is a ``Conv1D``."""
    return module(legacy, modern, (features_out, features_in), bias=bias, op=op)


def stack(tables: Iterable[KeyMap]) -> KeyMap:
    """Tables laid one below another."""
    return KeyMap(tuple(row for table in tables for row in table.rows))


def shape_of(state: State, name: str, ndim: int, fact: str) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from.

    Raises:
        ConversionError: it is absent, and ``fact`` says what that means, or it has other than ``ndim`` axes.
    """
    if name not in state:
        raise ConversionError(f"The checkpoint has no tensor {name}; {fact}.", missing=[name])
    shape = tuple(state[name].shape)
    if len(shape) != ndim:
        raise ConversionError(f"The tensor {name} has shape {list(shape)}, where {ndim} axes are expected.",
                              problems=[name])
    return shape
