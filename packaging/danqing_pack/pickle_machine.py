"""A pickle machine that builds plain values and calls nothing but what it is given.

Python's own unpickler imports whatever a file names, and hooks can only veto that. This one has no imports, no object
creation and no attribute access to veto: it knows the instructions that data needs, and looks names up in one table.
``pickletools``, which only parses, reads the instructions.
"""

from __future__ import annotations

import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from .errors import FormatError, UnsafeError

_DEEPEST = 100
_LARGEST = 10_000_000
"""Limits of a tree, counted with every repetition of a shared branch: a few bytes can name a branch many times."""

_PLAIN = (str, bytes, bool, int, float, type(None))


@dataclass(frozen=True)
class Function:
    """A function that a pickle may call."""

    call: Callable[..., Any]


class PickleMachine:
    """Runs one program from a stream; ``names`` is the allow-list, ``persistent`` turns a persistent id into a value.

    Raises:
        UnsafeError: the program names something outside ``names`` (attribute ``name``).
        FormatError: the program is damaged or cut short.
    """

    def __init__(self, names: Mapping[str, Any], persistent: Callable[[Any], Any], path: Path) -> None:
        self._names, self._persistent, self._path = names, persistent, path
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: BytesIO) -> Any:
        """The value that the program makes; the stream stands behind it afterwards."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise UnsafeError(f"{self._path} uses the pickle instruction {opcode.name}, which no state dict "
                                      "needs; get the weights as a plain state dict, from a source you trust.",
                                      path=self._path, name=opcode.name)
                step(self, argument)
            return self._stack.pop()
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
            raise damaged(self._path, f"{type(error).__name__}: {error}") from error

    # ---- instructions

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._stack = self._marked.pop()

    def _take(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("the stack is too short")
        values = self._stack[len(self._stack) - count:]
        del self._stack[len(self._stack) - count:]
        return values

    def _put(self, key: Any) -> None:
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def _get(self, key: Any) -> None:
        self._stack.append(self._memo[key])

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError("items are added to something that is no list")
        target.extend(values)

    def _update(self, values: list[Any]) -> None:
        fill(self._stack[-1], values)

    def _name(self, name: str) -> None:
        name = name.replace(" ", ".", 1)
        if name not in self._names:
            name = _printable(name)
            raise UnsafeError(f"{self._path} asks for the Python object {name}, which is refused: Danqing reads only "
                              "tensors and plain values; have the model's state dict saved by itself.",
                              path=self._path, name=name)
        self._stack.append(self._names[name])

    def _stack_name(self, _: Any) -> None:
        module, name = self._take(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name is no text")
        self._name(f"{module} {name}")

    def _call(self, _: Any) -> None:
        function, arguments = self._take(2)
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise TypeError("something that is no function is called")
        self._stack.append(function.call(*arguments))

    def _build(self, _: Any) -> None:
        """Attributes, such as the versions that torch hangs on a state dict, are not part of a tree."""
        target, _state = self._take(2)
        if not isinstance(target, OrderedDict):
            raise TypeError("attributes are set on something that is no state dict")
        self._stack.append(target)

    def _persist(self, _: Any) -> None:
        self._stack.append(self._persistent(self._stack.pop()))


def _constant(value: Any) -> Callable[[PickleMachine, Any], None]:
    return lambda machine, _: machine._push(value)


def _tuple(count: int) -> Callable[[PickleMachine, Any], None]:
    return lambda machine, _: machine._push(tuple(machine._take(count)))


def _nothing(machine: PickleMachine, _: Any) -> None:
    """PROTO, FRAME and STOP say nothing about values."""


_STEPS: dict[str, Callable[[PickleMachine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
                     "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
                     "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), PickleMachine._push),
    "NONE": _constant(None), "NEWTRUE": _constant(True), "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()), "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._since_mark())),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "LIST": lambda machine, _: machine._push(machine._since_mark()),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "DICT": lambda machine, _: machine._push(fill({}, machine._since_mark())),
    "APPEND": lambda machine, _: machine._extend(machine._take(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._update(machine._take(2)),
    "SETITEMS": lambda machine, _: machine._update(machine._since_mark()),
    "MARK": PickleMachine._mark, "POP": PickleMachine._pop,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), PickleMachine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), PickleMachine._get),
    "GLOBAL": PickleMachine._name, "STACK_GLOBAL": PickleMachine._stack_name,
    "REDUCE": PickleMachine._call, "BUILD": PickleMachine._build, "BINPERSID": PickleMachine._persist,
}


def fill(target: Any, values: list[Any]) -> Any:
    """Put alternating keys and values into a dict. Keys are plain, so that hashing them is quick and runs no code."""
    if not isinstance(target, dict) or len(values) % 2:
        raise TypeError("entries are put into something that is no dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) not in _PLAIN:
            raise TypeError(f"a key is a {type(key).__name__}")
        target[key] = value
    return target


def require_plain_tree(tree: Any, leaf: type, path: Path) -> None:
    """Refuse a tree that holds itself, is too deep or too large, or has leaves other than plain values and ``leaf``."""
    sizes: dict[int, int] = {}
    open_branches: dict[int, Any] = {}
    stack = [(tree, False)]
    while stack:
        node, done = stack.pop()
        if not isinstance(node, (dict, list, tuple)):
            _require_leaf(node, leaf, path)
            continue
        children = list(node.values()) if isinstance(node, dict) else list(node)
        if done:
            del open_branches[id(node)]
            sizes[id(node)] = 1 + sum(sizes.get(id(child), 1) for child in children)
            if sizes[id(node)] > _LARGEST:
                raise damaged(path, f"more than {_LARGEST} values")
        elif id(node) in open_branches:
            raise damaged(path, "a value that holds itself")
        elif id(node) not in sizes:
            open_branches[id(node)] = node
            if len(open_branches) > _DEEPEST:
                raise damaged(path, f"values more than {_DEEPEST} levels deep")
            stack.append((node, True))
            stack.extend((child, False) for child in children)
            for key in node if isinstance(node, dict) else ():
                _require_leaf(key, leaf, path)


def _require_leaf(node: Any, leaf: type, path: Path) -> None:
    if type(node) is str:
        try:
            node.encode()
        except UnicodeEncodeError as error:
            raise damaged(path, "a name that is no text") from error
    elif type(node) not in _PLAIN and not isinstance(node, leaf):
        raise damaged(path, f"a {type(node).__name__} where a value belongs")


def damaged(path: Path, fact: str) -> FormatError:
    """A program that is no pickle of plain values."""
    return FormatError(f"{path} is damaged: its pickle makes no tree of tensors ({_printable(fact)}); fetch it again.",
                       path=path)


def _printable(text: str) -> str:
    """Words of a stranger's file, fit for a sentence: one short line without control characters."""
    shown = "".join(each if each.isprintable() else " " for each in text[:200])
    return shown if len(text) <= 200 else f"{shown}..."
