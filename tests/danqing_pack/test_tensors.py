"""Lazy tensors against NumPy and torch: the same values whatever the way to them, in whatever pieces."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from danqing_pack.errors import FormatError, RequestError
from danqing_pack.tensors import BF16, Tensor, open_safetensors, sha256_of, write_safetensors
from danqing_pack.transposing import copy_into
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=7)


def bits(array: np.ndarray) -> np.ndarray:
    """Values as bytes in row-major order, so that NaN equals NaN."""
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def of_torch(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)


def on_disk(folder: Path, array: np.ndarray, name: str = "x") -> Tensor:
    """The same values, read from a file."""
    path = folder / f"{name}.safetensors"
    path.unlink(missing_ok=True)
    write_safetensors(path, {"before": Tensor.of(np.arange(5, dtype=np.float64)), "x": Tensor.of(array)})
    return open_safetensors(path)["x"]


# ---------------------------------------------------------------- the algebra

class Steps:
    """Draws a way to a tensor, and the same way in NumPy."""

    def __init__(self, draw: st.DataObject, folder: Path) -> None:
        self.draw, self.folder, self.count = draw, folder, 0

    def leaf(self, shape: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
        array = np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)
        self.count += 1
        kind = self.draw.draw(st.sampled_from(["memory", "file", "derived"]), label="leaf")
        if kind == "memory":
            return Tensor.of(array), array
        if kind == "file":
            return on_disk(self.folder, array, f"leaf{self.count}"), array
        return Tensor.derived(array.dtype, shape, lambda: array), array

    def step(self, tensor: Tensor, array: np.ndarray) -> tuple[Tensor, np.ndarray]:
        kind = self.draw.draw(st.sampled_from(["transpose", "reshape", "split", "join", "cast"]), label="step")
        if kind == "transpose":
            return tensor.transpose(), array.T
        if kind == "reshape":
            shape = self.draw.draw(st.permutations(array.shape)) + self.draw.draw(st.sampled_from([[], [1], [1, 1]]))
            return tensor.reshape(shape), array.reshape(shape)
        if kind == "cast":
            dtype = self.draw.draw(st.sampled_from([np.dtype(np.float16), BF16, np.dtype(np.float64)]))
            return tensor.cast(dtype), array.astype(dtype)
        if array.ndim == 0:
            return tensor, array
        if kind == "split":
            parts = self.draw.draw(st.sampled_from([n for n in (1, 2, 3, 5, 7) if array.shape[0] % n == 0]))
            index = self.draw.draw(st.integers(0, parts - 1))
            return tensor.split(parts)[index], np.split(array, parts)[index]
        other, values = self.leaf((self.draw.draw(st.integers(1, 3)), *array.shape[1:]))
        joined = [(tensor, array), (other.cast(array.dtype), values.astype(array.dtype))]
        order = self.draw.draw(st.permutations(joined))
        return Tensor.concatenate([each[0] for each in order]), np.concatenate([each[1] for each in order])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_way_to_a_tensor_gives_what_numpy_gives(tmp_path_factory: pytest.TempPathFactory,
                                                    data: st.DataObject) -> None:
    steps = Steps(data, tmp_path_factory.getbasetemp())
    tensor, array = steps.leaf(data.draw(SHAPES))
    for _ in range(data.draw(st.integers(0, 5))):
        tensor, array = steps.step(tensor, array)
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
    assert (tensor.ndim, tensor.size, tensor.nbytes) == (array.ndim, array.size, array.nbytes)
    assert np.array_equal(bits(tensor.array()), bits(array))
    limit = data.draw(st.sampled_from([1, 8, 20, 64, 300, 1 << 20]), label="limit")
    blocks = list(tensor.blocks(limit))
    assert all(block.flags.c_contiguous and block.nbytes <= max(limit, block.itemsize) for block in blocks)
    assert np.array_equal(np.concatenate([bits(block) for block in blocks]), bits(array))
    wide = np.zeros((*array.shape, 2), array.dtype)
    tensor.fill(wide[..., 1])
    assert np.array_equal(bits(wide[..., 1]), bits(array)) and not bits(wide[..., 0]).any()
    extent = tensor.extent
    if extent is not None:
        stretch = extent.path.read_bytes()[extent.offset:extent.offset + extent.nbytes]
        assert np.array_equal(np.frombuffer(stretch, np.uint8), bits(array))


def test_cuts_and_reshapes_of_a_file_keep_their_extent(tmp_path: Path) -> None:
    tensor = on_disk(tmp_path, np.arange(24, dtype=np.float32).reshape(6, 4))
    assert tensor.extent is not None
    second = tensor.split(3)[1].reshape((4, 2, 1, 1))
    assert second.extent is not None
    assert (second.extent.offset, second.extent.nbytes) == (tensor.extent.offset + 32, 32)
    assert tensor.transpose().extent is None and tensor.cast(np.dtype(np.float16)).extent is None
    assert tensor.transpose().transpose().extent == tensor.extent
    assert Tensor.of(np.ones(3)).extent is None


def test_nothing_is_made_before_it_is_read() -> None:
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return np.arange(6.0).reshape(2, 3)

    tensor = Tensor.derived(np.dtype(np.float64), (2, 3), make)
    fused = Tensor.concatenate([tensor.transpose(), tensor.reshape((3, 2))]).cast(np.dtype(np.float32)).split(2)[0]
    assert not made
    assert np.array_equal(fused.array(), np.arange(6.0).reshape(2, 3).T) and made


def test_what_is_made_is_made_once_for_all_its_pieces() -> None:
    calls: list[int] = []

    def make() -> np.ndarray:
        calls.append(1)
        return np.arange(1000.0).reshape(50, 20)

    tensor = Tensor.concatenate([Tensor.derived(np.dtype(np.float64), (50, 20), make)] * 2).transpose()
    assert len(list(tensor.cast(np.dtype(np.float32)).blocks(400))) > 10 and len(calls) == 2


@pytest.mark.parametrize("make", [
    lambda t: t.reshape((5, 5)), lambda t: t.reshape((-4, -6)), lambda t: t.split(5), lambda t: t.split(0),
    lambda t: Tensor.concatenate([]), lambda t: Tensor.concatenate([t, t.transpose()]),
    lambda t: Tensor.concatenate([t, t.cast(np.dtype(np.float64))]),
    lambda t: t.reshape((24,)).split(24)[0].reshape(()).split(1),
])
def test_shapes_that_do_not_fit_are_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make(Tensor.of(np.zeros((4, 6), np.float32)))


def test_a_function_that_makes_something_else_is_found() -> None:
    with pytest.raises(ValueError):
        Tensor.derived(np.dtype(np.float32), (3,), lambda: np.zeros(4, np.float32)).array()


def test_arrays_are_read_only(tmp_path: Path) -> None:
    for tensor in (Tensor.of(np.zeros(4, np.float32)), on_disk(tmp_path, np.zeros(4, np.float32)),
                   Tensor.of(np.zeros(4, np.float32)).cast(np.dtype(np.float16)),
                   Tensor.derived(np.dtype(np.float32), (4,), lambda: np.zeros(4, np.float32))):
        for array in (tensor.array(), *tensor.blocks()):
            with pytest.raises(ValueError):
                array[0] = 1


def test_empty_and_scalar_tensors() -> None:
    empty = Tensor.of(np.zeros((0, 3), np.float32))
    assert list(empty.blocks()) == [] and list(empty.transpose().cast(BF16).blocks()) == []
    assert empty.reshape((3, 0)).array().shape == (3, 0)
    scalar = Tensor.of(np.array(2.5, np.float32))
    assert [block.tolist() for block in scalar.cast(np.dtype(np.float16)).blocks(1)] == [2.5]


# ---------------------------------------------------------------- transposing

@pytest.mark.parametrize("dtype", ["?", "u1", "<f2", BF16, "<f4", "<f8", "<c8", "<c16"])
@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (257, 129), (300, 520), (64, 1024), (33, 1), (16, 4099)])
def test_a_transposed_matrix_is_copied_right(shape: tuple[int, int], dtype: Any) -> None:
    source = np.random.default_rng(0).integers(0, 100, shape).astype(np.dtype(dtype))
    whole = np.zeros((shape[1], 3 * shape[0]), source.dtype)
    out = whole[:, shape[0]:2 * shape[0]]
    copy_into(out, source.T)
    assert np.array_equal(out, source.T)
    assert not whole[:, :shape[0]].any() and not whole[:, 2 * shape[0]:].any()


def test_a_transposed_stretch_of_columns_is_copied_right() -> None:
    source = np.arange(500 * 700, dtype=np.float32).reshape(500, 700)
    out = np.empty((300, 500), np.float32)
    copy_into(out, source.T[101:401])
    assert np.array_equal(out, source.T[101:401])


# ---------------------------------------------------------------- casting

def patterns(dtype: Any, count: int = 1 << 16) -> np.ndarray:
    """Values of every kind: all 16-bit patterns, or random 32-bit ones with the borders of narrower types."""
    if np.dtype(dtype).itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    drawn = np.random.default_rng(0).integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        borders = [np.nextafter(np.float32(v), np.float32(s * np.inf), dtype=np.float32)
                   for v in (65504, 65519.996, 65520, 3.3895314e38, 2.0**-24, 2.0**-25, 1 + 2.0**-11, 1 + 2.0**-8)
                   for s in (-1, 1)]
    return np.concatenate([drawn, np.array(borders, np.float32), -np.array(borders, np.float32),
                           np.array([0, -0.0, np.inf, -np.inf, np.nan], np.float32)])


@pytest.mark.parametrize(("source", "target", "as_torch"), [
    (np.float32, np.float16, torch.float16), (np.float32, ml_dtypes.bfloat16, torch.bfloat16),
    (np.float16, ml_dtypes.bfloat16, torch.bfloat16), (ml_dtypes.bfloat16, np.float16, torch.float16),
])
def test_casts_round_as_torch_rounds(source: Any, target: Any, as_torch: torch.dtype) -> None:
    values = patterns(source)
    wide = values.astype(np.float32)
    cast = Tensor.of(values).cast(np.dtype(target), on_overflow=lambda count: None).array()
    expected = of_torch(torch.from_numpy(wide).to(as_torch))
    number = ~np.isnan(wide)
    assert np.array_equal(cast.view(np.uint16)[number], expected[number])
    assert np.isnan(cast[~number].astype(np.float32)).all() and (~number).any()


def test_every_border_between_two_halves_is_rounded_right() -> None:
    """All values halfway between neighbouring halves, their neighbours on both sides, and the halves themselves."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2
    beside = [np.nextafter(between, np.float32(end)) for end in (0, 1e9)]
    values = np.concatenate([halves, between, *beside])
    values = np.concatenate([values, -values])
    cast = Tensor.of(values).cast(np.dtype(np.float16)).array()
    assert np.array_equal(cast.view(np.uint16), of_torch(torch.from_numpy(values).to(torch.float16)))


def test_widening_keeps_every_value() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        values = patterns(dtype)
        back = Tensor.of(values).cast(np.dtype(np.float32)).cast(np.dtype(dtype)).array()
        number = ~np.isnan(values.astype(np.float32))
        assert np.array_equal(back.view(np.uint16)[number], values.view(np.uint16)[number])


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16, np.dtype(ml_dtypes.float8_e4m3fn)])
def test_overflow_is_counted_and_refused(dtype: Any) -> None:
    largest = {2: 65504.0, 1: 448.0}[dtype.itemsize] if dtype != BF16 else 3.3895313892515355e38
    values = np.zeros(3_000_000)
    values[[0, 1_500_000, 2_999_999]] = [largest * 1.5, -largest * 2, largest * 1.1]
    values[[5, 6, 7, 8]] = [np.inf, -np.inf, np.nan, largest]
    counts: list[int] = []
    told = Tensor.of(values).cast(dtype, on_overflow=counts.append)
    told.array()
    assert sum(counts) == 3
    with pytest.raises(RequestError, match=dtype.name):
        Tensor.of(values).cast(dtype).array()
    values[[0, 1_500_000, 2_999_999]] = 1
    assert np.isfinite(Tensor.of(values).cast(dtype).array().astype(np.float32)).sum() == len(values) - 3


def test_the_first_number_that_overflows_is_counted() -> None:
    """In float32, which has its own way to half precision; twice in what is read at once, and once more."""
    values = np.full(600_000, 65519.996, np.float32)
    counts: list[int] = []
    Tensor.of(values).cast(np.dtype(np.float16), on_overflow=counts.append).array()
    assert counts == []
    values[[10, 100_000, 599_999]] = 65520
    cast = Tensor.of(values).cast(np.dtype(np.float16), on_overflow=counts.append).array()
    assert sum(counts) == 3 and np.isinf(cast).sum() == 3


def test_an_overflow_is_reported_under_the_name_of_its_tensor(tmp_path: Path) -> None:
    tensors = {"good": Tensor.of(np.ones(3, np.float32)), "gpt.h.0.bad": Tensor.of(np.full(3, 1e9, np.float32))}
    with pytest.raises(RequestError, match="gpt.h.0.bad: 3 values .* float16") as caught:
        write_safetensors(tmp_path / "x", {name: each.cast(np.dtype(np.float16)) for name, each in tensors.items()})
    assert caught.value.data == {"name": "gpt.h.0.bad", "count": 3}
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- memory, files

def test_blocks_hold_a_little_at_a_time(tmp_path: Path) -> None:
    """A transposed, joined and cast tensor of 48 MiB passes through a few MiB."""
    array = np.zeros((1024, 4096), np.float32)
    parts = [on_disk(tmp_path, array, str(i)) for i in range(3)]
    tensor = Tensor.concatenate(parts).transpose().cast(np.dtype(np.float64))
    tracemalloc.start()
    try:
        total = sum(block.nbytes for block in tensor.blocks(1 << 20))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert total == 3 * array.nbytes * 2


RESIDENT = """
import sys
from pathlib import Path
from danqing_pack.tensors import open_safetensors, write_safetensors
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
tensors = {name: tensor.transpose() for name, tensor in open_safetensors(sys.argv[1]).items()}
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
write_safetensors(sys.argv[2], tensors)
sys.exit(memory("VmHWM") - before > 40 << 10)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of memory")
def test_a_large_file_passes_through_little_memory(tmp_path: Path) -> None:
    """96 matrices of 1 MiB, transposed: neither the pages they are read from nor their neighbours stay mapped."""
    matrix = np.ones((512, 512), np.float32)
    write_safetensors(tmp_path / "x", {f"w{i}": Tensor.of(matrix) for i in range(96)})
    done = subprocess.run([sys.executable, "-c", RESIDENT, tmp_path / "x", tmp_path / "y"], check=False)
    assert done.returncode == 0


def test_a_digest_of_a_file(tmp_path: Path) -> None:
    import hashlib

    data = np.random.default_rng(0).bytes(3_000_001)
    (tmp_path / "x").write_bytes(data)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    with pytest.raises(FormatError, match="No such file"):
        sha256_of(tmp_path / "y")


def test_a_file_that_shrinks_while_it_is_read_is_reported(tmp_path: Path) -> None:
    tensor = on_disk(tmp_path, np.zeros(1 << 20, np.float32))
    assert tensor.extent is not None
    os.truncate(tensor.extent.path, 1000)
    with pytest.raises(FormatError, match="became shorter"):
        list(tensor.blocks())


def test_torch_is_not_needed() -> None:
    code = ("import sys, danqing_pack.tensors, danqing_pack.pickles; "
            "sys.exit(bool({'torch', 'safetensors'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
