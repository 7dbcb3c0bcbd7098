"""The safetensors format against its reference implementation, and files that lie."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from danqing_pack.errors import ConversionError, DanqingError, FormatError, RequestError
from danqing_pack.tensors import BF16, Tensor, open_safetensors, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32,
         torch.uint32, torch.float32, torch.int64, torch.uint64, torch.float64, torch.complex64, torch.float8_e4m3fn,
         torch.float8_e5m2]


def sample(dtype: torch.dtype, shape: tuple[int, ...] = (3, 5)) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(len(str(dtype)))) * 10
    return (drawn.abs() if "uint" in str(dtype) else drawn).to(dtype)


def state() -> dict[str, torch.Tensor]:
    """A state dict of every type, with an empty tensor, a scalar and names of all kinds."""
    made = {f"layers.{i}.{str(dtype).removeprefix('torch.')}": sample(dtype) for i, dtype in enumerate(TYPES)}
    return made | {"空": torch.zeros(0, 3), "a scalar": torch.tensor(2.5), 'quoted "name"\\': torch.arange(7.0)}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def lazy(tensor: torch.Tensor) -> Tensor:
    """The same values as a tensor of ours."""
    names = {torch.bfloat16: BF16, torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
             torch.float8_e5m2: np.dtype(ml_dtypes.float8_e5m2)}
    dtype = names.get(tensor.dtype) or np.dtype(str(tensor.dtype).removeprefix("torch."))
    return Tensor.of(np.frombuffer(raw(tensor), np.uint8).view(dtype).reshape(tuple(tensor.shape)))


def handmade(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# ---------------------------------------------------------------- the same as the reference

def test_a_file_is_the_same_to_the_byte(tmp_path: Path) -> None:
    tensors = state()
    safetensors.torch.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    ours = {name: lazy(each) for name, each in tensors.items()}
    digest = write_safetensors(tmp_path / "ours", ours, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()


def test_every_type_is_read(tmp_path: Path) -> None:
    tensors = state()
    safetensors.torch.save_file(tensors, tmp_path / "x")
    opened = open_safetensors(tmp_path / "x")
    assert set(opened) == set(tensors)
    for name, tensor in tensors.items():
        assert opened[name].shape == tuple(tensor.shape) and opened[name].array().tobytes() == raw(tensor)


def test_order_and_calls_do_not_change_the_file(tmp_path: Path) -> None:
    tensors = {name: lazy(each) for name, each in state().items()}
    first = write_safetensors(tmp_path / "a", tensors, {"b": "1", "a": "2"})
    second = write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"a": "2", "b": "1"})
    assert first == second and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        assert file.metadata() == {"a": "2", "b": "1"}


def test_a_copy_is_the_same_to_the_byte(tmp_path: Path) -> None:
    safetensors.torch.save_file(state(), tmp_path / "a")
    write_safetensors(tmp_path / "b", open_safetensors(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_without_tensors(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x", {})
    assert open_safetensors(tmp_path / "x") == {} and safetensors.numpy.load_file(tmp_path / "x") == {}


def test_large_tensors_come_through_in_pieces(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {f"w{i}": generator.standard_normal((1500 + i, 2048)).astype(np.float32) for i in range(4)}
    write_safetensors(tmp_path / "a", {name: Tensor.of(array) for name, array in arrays.items()})
    opened = open_safetensors(tmp_path / "a")
    turned = {"fused": Tensor.concatenate([opened[name] for name in arrays]).transpose(),
              "half": opened["w0"].cast(np.dtype(np.float16)), "same": opened["w1"], "turned": opened["w2"].transpose()}
    steps: list[int] = []
    write_safetensors(tmp_path / "b", turned, progress=steps.append)
    back = safetensors.numpy.load_file(tmp_path / "b")
    assert np.array_equal(back["fused"], np.concatenate(list(arrays.values())).T)
    assert np.array_equal(back["half"], arrays["w0"].astype(np.float16))
    assert np.array_equal(back["same"], arrays["w1"]) and np.array_equal(back["turned"], arrays["w2"].T)
    assert sum(steps) == (tmp_path / "b").stat().st_size and len(steps) > 5


# ---------------------------------------------------------------- files that lie

@pytest.mark.parametrize(("header", "data", "words"), [
    ({"x": entry("F33")}, b"\0" * 8, "F33"),
    ({"x": entry("F4")}, b"\0" * 8, "F4"),
    ({"x": entry()}, b"\0" * 4, "cut short"),
    ({"x": entry(shape=(3,))}, b"\0" * 8, "x, F32 .*, 8 bytes"),
    ({"x": entry(shape=(-2,), offsets=(8, 0))}, b"\0" * 8, "shape"),
    ({"x": entry(shape=(2.0,))}, b"\0" * 8, "shape"),
    ({"x": entry(shape=(True, 2))}, b"\0" * 8, "shape"),
    ({"x": entry(offsets=(0, 8, 9))}, b"\0" * 8, "shape"),
    ({"x": entry(shape=(1,) * 70 + (2,))}, b"\0" * 8, "shape"),
    ({"x": entry(shape=(0, 1 << 70), offsets=(0, 0))}, b"", "shape"),
    ({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12, "overlap"),
    ({"x": entry(), "y": entry(offsets=(12, 20))}, b"\0" * 20, "gap"),
    ({"x": entry()}, b"\0" * 12, "8 of 12 bytes"),
    ({"x": {"dtype": "F32"}}, b"", "does not describe x"),
    ({"x": 5}, b"", "does not describe x"),
    ([], b"", "no JSON object"),
    (b'{"x": ', b"", "no header"),
    (b"\xff\xfe{}", b"", "no header"),
    (b"[" * 100_000, b"", "no header"),
    (b'{"x": 1, "y": 2, "x": 3}', b"", "x stands there twice"),
])
def test_a_header_that_lies_is_refused(header: Any, data: bytes, words: str, tmp_path: Path) -> None:
    path = handmade(tmp_path / "x.safetensors", header, data)
    with pytest.raises(FormatError, match=words) as caught:
        open_safetensors(path)
    assert str(path) in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"), (b"\x08\0\0", "cut short"), (b"\xff" * 100, "no safetensors file"),
    ((1000).to_bytes(8, "little") + b"{}", "cut short"), (b"PK\x03\x04" + b"\0" * 100, "no safetensors file|cut short"),
])
def test_a_file_that_is_none_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match=words):
        open_safetensors(tmp_path / "x")


def test_a_place_without_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FormatError, match="cannot be read"):
            open_safetensors(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x"
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2, dtype=torch.int8)}
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    return path.read_bytes()


def test_every_way_to_cut_a_file_is_noticed(whole: bytes, tmp_path: Path) -> None:
    for length in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            open_safetensors(tmp_path / "x")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_file_opens_or_says_why(whole: bytes, tmp_path_factory: pytest.TempPathFactory,
                                          data: st.DataObject) -> None:
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(changed)
    try:
        opened = open_safetensors(path)
    except DanqingError as error:
        assert "\n" not in str(error)
    else:
        assert all(tensor.array().shape == tensor.shape for tensor in opened.values())


# ---------------------------------------------------------------- what cannot be written, and writing that fails

@pytest.mark.parametrize(("tensors", "words"), [
    ({"x": np.zeros(3, np.complex128)}, "complex128"), ({"__metadata__": np.zeros(3)}, "__metadata__"),
    ({"a\ud800": np.zeros(3)}, "ud800"),
])
def test_what_the_format_cannot_hold_is_refused(tensors: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=words):
        write_safetensors(tmp_path / "x", {name: Tensor.of(array) for name, array in tensors.items()})
    assert list(tmp_path.iterdir()) == []


def failing(error: BaseException) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        raise error

    return make


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken"), MemoryError()])
def test_an_interrupted_file_is_removed(error: BaseException, tmp_path: Path) -> None:
    tensors = {"a": Tensor.of(np.zeros(3_000_000, np.float32)),
               "b": Tensor.derived(np.dtype(np.float32), (3,), failing(error))}
    with pytest.raises(type(error)):
        write_safetensors(tmp_path / "x", tensors)
    assert list(tmp_path.iterdir()) == [] and "sha256" not in {thread.name for thread in threading.enumerate()}


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_safetensors(tmp_path / "x", {"a": Tensor.of(np.zeros(3, np.float32))})
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_writes_that_take_only_a_part_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    array = np.arange(10_000, dtype=np.float32)
    digest = write_safetensors(tmp_path / "x", {"a": Tensor.of(array)})
    assert digest == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    assert np.array_equal(safetensors.numpy.load_file(tmp_path / "x")["a"], array)


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    with pytest.raises(RequestError, match="exists"):
        write_safetensors(tmp_path / "x", open_safetensors(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == before
    (tmp_path / "staged").touch()
    write_safetensors(tmp_path / "staged", open_safetensors(tmp_path / "x"))
    assert len(open_safetensors(tmp_path / "staged")) == 1
