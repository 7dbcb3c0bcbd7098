"""torch's files, read and written without torch, against torch itself; and files that ask for more than data."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from danqing_pack import pickles, torch_archives
from danqing_pack.errors import ConversionError, RequestError
from danqing_pack.pickle_programs import PickleProgram
from danqing_pack.tensors import BF16, Tensor
from hypothesis import given, settings
from hypothesis import strategies as st

TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32,
         torch.uint32, torch.float32, torch.int64, torch.uint64, torch.float64, torch.complex64, torch.complex128,
         torch.float8_e4m3fn, torch.float8_e5m2]
NAMES = {torch.bfloat16: BF16, torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
         torch.float8_e5m2: np.dtype(ml_dtypes.float8_e5m2)}


def sample(dtype: torch.dtype, shape: tuple[int, ...] = (3, 5)) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(len(str(dtype)))) * 10
    return (drawn.abs() if "uint" in str(dtype) else drawn).to(dtype)


def raw(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    return NAMES.get(dtype) or np.dtype(str(dtype).removeprefix("torch."))


def lazy(tensor: torch.Tensor) -> Tensor:
    flat = np.frombuffer(raw(tensor), np.uint8).view(numpy_type(tensor.dtype))
    return Tensor.of(flat.reshape(tuple(tensor.shape)))


def assert_same(ours: Any, theirs: Any) -> None:
    """One tree of ours and one of torch's: same structure, types, names, order and bytes."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, Tensor)
        assert (ours.shape, ours.dtype) == (tuple(theirs.shape), numpy_type(theirs.dtype))
        assert np.ascontiguousarray(ours.array()).tobytes() == raw(theirs)
        assert b"".join(block.tobytes() for block in ours.blocks(max(16, ours.nbytes // 50))) == raw(theirs)
    elif isinstance(theirs, dict):
        assert type(ours) is type(theirs) and list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, list if isinstance(theirs, list) else tuple) and len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        assert type(ours) is type(theirs) and ours == theirs


def state() -> dict[str, Any]:
    """Tensors of every type and of every way to lie in a storage."""
    base = torch.arange(60.0).reshape(3, 4, 5)
    made: dict[str, Any] = {str(dtype): sample(dtype) for dtype in TYPES}
    made |= {
        "scalar": torch.tensor(1.5), "empty": torch.zeros(2, 0, 4), "empty storage": torch.zeros(0), "空": torch.ones(1),
        "base": base, "shared": base, "turned": base.permute(2, 0, 1), "cut": base[1:, :, 2],
        "late": base.reshape(-1)[59:], "stepped": base[:, ::2], "transposed": base[0].t(),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 300), "overlapping": base.as_strided((5, 6), (3, 1)),
        "viewed": sample(torch.float16, (4, 4)).view(torch.int16), "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False),
    }
    return made


# ---------------------------------------------------------------- reading

def test_the_checkpoint_of_the_original(painter_checkpoint: Path) -> None:
    path = painter_checkpoint / "pytorch_model.bin"
    assert_same(pickles.load(path), torch.load(path, weights_only=True))
    pickles.verify(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_is_what_torch_saved(zipped: bool, protocol: int, tmp_path: Path) -> None:
    tree = state()
    torch.save(tree, tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_same(pickles.load(tmp_path / "x"), tree)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tree_reads_as_torch_reads_it(zipped: bool, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    tree = {
        "state_dict": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "huge": 1 << 80, "low": -7,
        "step": 70_000, "byte": 200, "short": 30_000, "loss": -1.5e-300, "name": "模型\n", "flags": [True, False, None],
        "size": torch.ones(2, 3).shape, "pair": (1, (2.0, "x"), []), 5: {"x": ()}, "nested": [[{"a": [torch.ones(1)]}]],
        True: 1, 2.5: 2, None: 3,
    }
    torch.save(tree, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    assert_same(pickles.load(tmp_path / "x"), torch.load(tmp_path / "x", weights_only=True))


def test_a_tensor_alone(tmp_path: Path) -> None:
    torch.save(torch.arange(5), tmp_path / "x")
    assert pickles.load(tmp_path / "x").array().tolist() == [0, 1, 2, 3, 4]


def test_views_lie_where_torch_put_them(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "x")
    opened = pickles.load(tmp_path / "x")
    assert opened["base"].extent == opened["shared"].extent and opened["base"].extent.offset % 64 == 0
    assert opened["late"].extent.offset == opened["base"].extent.offset + 59 * 4
    assert opened["turned"].extent is None and opened["expanded"].extent is None


def test_a_file_of_safetensors_under_another_name(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.arange(3.0)}, tmp_path / "model.ckpt")
    assert_same(pickles.load(tmp_path / "model.ckpt"), {"a": torch.arange(3.0)})


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None],
              compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive, record by record; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(state(), tmp_path / "saved.bin")
    return tmp_path / "saved.bin"


def test_an_archive_that_somebody_compressed(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "deflated", lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert_same(pickles.load(path), torch.load(saved, weights_only=True))
    pickles.verify(path)


def test_an_archive_from_a_big_endian_machine(saved: Path, tmp_path: Path) -> None:
    """Only with types that a typed storage names, as torch can swap no others."""
    unnamed = ("torch.uint1", "torch.uint3", "torch.uint6", "torch.float8")
    tensors = {name: each for name, each in state().items() if not str(each.dtype).startswith(unnamed)}
    torch.save(tensors, saved)
    keys = dict(_storage_types(saved))

    def swap(name: str, content: bytes) -> bytes:
        if name == "byteorder":
            return b"big"
        if not name.startswith("data/") or not content:
            return content
        dtype = keys[name]
        part = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        return np.frombuffer(content, f"u{part}").byteswap().tobytes()

    path = rewritten(saved, tmp_path / "big", swap)
    assert_same(pickles.load(path), torch.load(saved, weights_only=True))


def _storage_types(path: Path) -> list[tuple[str, np.dtype[Any]]]:
    found = []

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            dtype = numpy_type(getattr(torch, pid[1].__name__)(0).dtype)
            found.append((f"data/{pid[2]}", dtype))
            return torch.storage.TypedStorage(pid[4], dtype=getattr(torch, pid[1].__name__)(0).dtype, _internal=True)

    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        Reader(io.BytesIO(archive.read(name))).load()
    return found


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(pickles.load(tmp_path / "x"), torch.load(tmp_path / "x", weights_only=True))
    pickles.verify(tmp_path / "x")


def test_old_archives_have_no_byte_order(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "old", lambda name, content: None if name == "byteorder" else content)
    assert_same(pickles.load(path), torch.load(saved, weights_only=True))


def test_the_values_are_not_touched(tmp_path: Path) -> None:
    """A gigabyte of holes opens in little memory."""
    code = PickleProgram({"w0": Tensor.derived(np.dtype(np.float32), (1 << 28,), lambda: np.zeros(0))}).code
    _sparse_archive(tmp_path / "sparse", code, 1 << 30)
    script = (
        "import resource, sys; from danqing_pack import pickles\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"tree = pickles.load({str(tmp_path / 'sparse')!r}); tensor = tree['w0']; assert tensor.nbytes == 1 << 30\n"
        "assert tensor.split(1024)[-1].array()[-1] == 0\n"
        "sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 20_000)")
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def _sparse_archive(path: Path, program: bytes, size: int) -> None:
    """An archive whose one storage is a hole in the file; its checksum is not that of zeros."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        info = zipfile.ZipInfo("archive/data/0")
        archive.writestr(info, b"")
    content = path.read_bytes()
    start = info.header_offset + 30 + len(info.filename)
    directory = bytearray(content[start:])
    entry = directory.index(b"archive/data/0") - 46
    directory[entry + 20:entry + 28] = struct.pack("<II", size, size)
    end = directory.index(b"PK\x05\x06")
    directory[end + 16:end + 20] = struct.pack("<I", start + size)
    with path.open("r+b") as file:
        file.truncate(start + size)
        file.seek(start + size)
        file.write(directory)


def test_torch_is_not_imported(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "x")
    torch.save(state(), tmp_path / "y", _use_new_zipfile_serialization=False)
    old, new, copy = (str(tmp_path / name) for name in "yxz")
    code = (f"import sys; from danqing_pack import pickles; pickles.load({old!r})\n"
            f"pickles.dump({copy!r}, pickles.load({new!r})); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- writing

@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written(mmap: bool, saved: Path, tmp_path: Path) -> None:
    tree = pickles.load(saved)
    digest = pickles.dump(tmp_path / "ours", tree)
    read = torch.load(tmp_path / "ours", weights_only=True, mmap=mmap)
    assert_same(tree, read)
    assert all(tensor.stride() == torch.empty(tensor.shape).stride() for tensor in read.values())
    assert digest == hashlib.sha256((tmp_path / "ours").read_bytes()).hexdigest()
    pickles.verify(tmp_path / "ours")
    with zipfile.ZipFile(tmp_path / "ours") as archive:
        assert archive.testzip() is None


def test_a_written_tree_comes_back(tmp_path: Path) -> None:
    state_dict = OrderedDict(a=lazy(torch.ones(2, 3)), b=lazy(torch.zeros(0)))
    tree: Any = OrderedDict(state_dict=state_dict, epoch=3, name="模型", none=None, flags=[True, False])
    tree["numbers"] = [0, 255, 256, 65535, 65536, -1, -(1 << 31), 1 << 31, -(1 << 63), 1 << 200, 1.5, float("inf")]
    tree["pair"] = (1, [(), {}], {"x": {5: "y", 2.5: [lazy(torch.tensor(1.5))]}})
    pickles.dump(tmp_path / "x", tree)
    assert_same(pickles.load(tmp_path / "x"), torch.load(tmp_path / "x", weights_only=True))
    theirs = torch.load(tmp_path / "x", weights_only=True)
    assert theirs["numbers"] == tree["numbers"] and theirs["pair"][1] == [(), {}] and type(theirs) is OrderedDict


def test_equal_trees_give_equal_files(saved: Path, tmp_path: Path) -> None:
    tree = pickles.load(saved)
    pickles.dump(tmp_path / "a", tree)
    in_memory = {name: Tensor.of(np.array(each.array())) for name, each in tree.items()}
    pickles.dump(tmp_path / "other name", in_memory | {name: tree[name] for name in ("base", "shared")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "other name").read_bytes()


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    weight = torch.randn(100, 100)
    torch.save({"a": weight, "b": weight.detach(), "c": weight.clone()}, tmp_path / "x")
    pickles.dump(tmp_path / "y", pickles.load(tmp_path / "x"))
    read = torch.load(tmp_path / "y", weights_only=True)
    assert read["a"].data_ptr() == read["b"].data_ptr() != read["c"].data_ptr()


def test_data_are_aligned_as_torch_aligns_them(tmp_path: Path) -> None:
    pickles.dump(tmp_path / "x", {f"{'n' * i}": lazy(torch.ones(i)) for i in range(1, 100)})
    assert all(tensor.extent.offset % 64 == 0 for tensor in pickles.load(tmp_path / "x").values())


@pytest.mark.parametrize("wide", [0, 100, 3000])
def test_large_archives_have_wide_fields(wide: int, saved: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """As beyond 4 GiB, with the border moved down: sizes and offsets above it go where zip64 has them."""
    tree = pickles.load(saved)
    pickles.dump(tmp_path / "narrow", tree)
    monkeypatch.setattr(torch_archives, "_WIDE", wide)
    pickles.dump(tmp_path / "wide", tree)
    assert (tmp_path / "wide").stat().st_size > (tmp_path / "narrow").stat().st_size
    for mmap in (False, True):
        assert_same(tree, torch.load(tmp_path / "wide", weights_only=True, mmap=mmap))
    assert_same(pickles.load(tmp_path / "wide"), torch.load(saved, weights_only=True))
    with zipfile.ZipFile(tmp_path / "wide") as archive:
        assert archive.testzip() is None
        last = archive.getinfo("archive/version")
    if last.file_size >= wide:      # what a reader that goes from front to back sees
        header = (tmp_path / "wide").read_bytes()[last.header_offset:]
        sizes, name, extra = header[18:26], *struct.unpack("<HH", header[26:30])
        assert sizes == b"\xff" * 8 and header[30 + name:50 + name] == struct.pack("<HHQQ", 1, 16, 0, 0)
        assert header[32 + name + extra:56 + name + extra] == b"PK\7\x08" + struct.pack("<IQQ", last.CRC, 2, 2)


@pytest.mark.slow
def test_more_records_than_a_short_counts(tmp_path: Path) -> None:
    """70 000 tensors, where a zip file without zip64 holds 65 535 records."""
    pickles.dump(tmp_path / "x", [Tensor.of(np.array([i], np.int32)) for i in range(70_000)])
    read = torch.load(tmp_path / "x", weights_only=True)
    assert all(int(read[i]) == i for i in (0, 1, 65_534, 65_535, 65_536, 69_999))
    assert pickles.load(tmp_path / "x")[69_999].array().tolist() == [69_999]


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.sampled_from([torch.ones(2), torch.zeros(0, 3), torch.tensor(7), sample(torch.uint16)]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(
        st.text(max_size=4) | st.integers() | st.booleans(), children, max_size=4) | st.tuples(children, children),
    max_leaves=20)


def ours(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return lazy(tree)
    if isinstance(tree, dict):
        return {key: ours(value) for key, value in tree.items()}
    return type(tree)(map(ours, tree)) if isinstance(tree, (list, tuple)) else tree


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_any_tree_goes_there_and_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("ours.bin", "theirs.bin"):
        (folder / name).unlink(missing_ok=True)
    pickles.dump(folder / "ours.bin", ours(tree))
    torch.save(tree, folder / "theirs.bin")
    assert_same(pickles.load(folder / "ours.bin"), tree)
    assert_same(pickles.load(folder / "theirs.bin"), tree)
    assert_same(pickles.load(folder / "ours.bin"), torch.load(folder / "ours.bin", weights_only=True))


@pytest.mark.parametrize(("tree", "words"), [
    ({"a": np.zeros(3)}, "a is a ndarray"), ({"a": {"b": [1, b"x"]}}, r"a.b\[1\] is a bytes"), ({(1, 2): 3}, "tuple"),
    ({"a\ud800": 1}, "no text"), ({"a": 1 << 3000}, "376 bytes"),
    ({"a": Tensor.of(np.zeros(3, ml_dtypes.float8_e3m4))}, "float8_e3m4"),
])
def test_what_torch_would_not_read_is_refused(tree: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=words):
        pickles.dump(tmp_path / "x", tree)
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    large = Tensor.of(np.full(3, 1e9, np.float32)).cast(np.dtype(np.float16))
    with pytest.raises(RequestError, match="a.b: 3 values"):
        pickles.dump(tmp_path / "x", {"a": {"b": large}})
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_byte(saved: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    pickles.dump(tmp_path / "x", pickles.load(saved), progress=steps.append)
    assert sum(steps) == (tmp_path / "x").stat().st_size and all(step > 0 for step in steps)
