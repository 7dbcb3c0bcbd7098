"""Files that ask for more than data, that are damaged or cut short, or that are something else: one sentence each."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from danqing_pack import pickles, torch_archives
from danqing_pack.errors import DanqingError, FormatError, UnsafeError
from danqing_pack.tensors import Tensor
from hypothesis import given, settings
from hypothesis import strategies as st

MAGIC = torch.serialization.MAGIC_NUMBER


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
    """Some tensors as torch saves them."""
    tensors = {f"w{i}": torch.arange(10.0) + i for i in range(5)}
    torch.save(tensors, tmp_path / "saved.bin")
    return tmp_path / "saved.bin"


# ---------------------------------------------------------------- what asks for more than data

class Opens:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


class Plain:
    pass


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("value", "name"), [
    (Opens(os.system, "touch {mark}"), f"{os.system.__module__}.system"), (Opens(eval, "1"), "builtin.*eval"),
    (Opens(getattr, "a", "upper"), "builtin.*getattr"), (Plain(), "Plain"), (Plain, "Plain"), (range(3), "range"),
    ({1, 2}, "set|EMPTY_SET"), (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"), (np.float64(1.0), "numpy"),
    (Opens(torch.load, "x"), "torch.serialization.load"), (Path("x"), "pathlib"),
    (OrderedDict(a=Opens(os.getcwd)), "getcwd"),
])
def test_a_foreign_name_is_refused_and_named(value: Any, name: str, protocol: int, zipped: bool,
                                             tmp_path: Path) -> None:
    if isinstance(value, Opens):
        value.call = tuple(each.replace("{mark}", str(tmp_path / "mark")) if isinstance(each, str) else each
                           for each in value.call)
    torch.save({"weight": torch.ones(1), "extra": value}, tmp_path / "x", pickle_protocol=protocol,
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeError, match=name) as caught:
        pickles.load(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value) and "\n" not in str(caught.value) and caught.value.data["name"]
    assert not (tmp_path / "mark").exists()


def program(tmp_path: Path, code: bytes, name: str = "x") -> Path:
    """An archive around a pickle made by hand."""
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/data/0", struct.pack("<3f", 1, 2, 3))
    return tmp_path / name


def tensor_code(offset: int = 0, size: Any = (3,), stride: Any = (1,), count: int = 3, key: str = "0",
                kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    def put(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    return (b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage" + kind + put(key) + put("cpu") + put(count)
            + b"tQ" + put(offset) + put(size) + put(stride) + b"\x89ccollections\nOrderedDict\n)RtR")


@pytest.mark.parametrize(("code", "words"), [
    (b"", "pickle"), (b"\x80\x02.", "IndexError"), (b"\x80\x02N", "pickle exhausted"),
    (b"\x80\x02K\x01h\x05.", "KeyError"),
    (b"\x80\x02}K\x01s.", "IndexError"), (b"\x80\x02NK\x01a.", "no list"), (b"\x80\x02(K\x01K\x02u.", "."),
    (b"\x80\x02]q\x00h\x00a.", "holds itself"), (b"\x80\x02}(]K\x01u.", "a key is a list"),
    (b"\x80\x02}(K\x01\x85K\x01u.", "a key is a tuple"), (b"\x80\x02ctorch\nFloatStorage\n.", "StorageType"),
    (b"\x80\x02ccollections\nOrderedDict\n.", "Function"), (b"\x80\x02]K\x01\x85R.", "no function"),
    (b"\x80\x02]}b.", "no state dict"), (b"\x80\x02ctorch\nfloat32\n.", "DType"),
    (b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".", "levels deep"), (b"\x80\x02(" + b"]" * 50_000 + b"e" + b".", "."),
    (b"\x80\x02]" + b"".join(b"q%c(h%ch%cl" % (i, i, i) for i in range(60)) + b".", "more than"),
    (b"\x80\x02X\xff\xff\xff\x7fabc.", "ValueError"), (b"\x80\x02X\x03\0\0\0\xed\xa0\x80.", "no text"),
    (b"\x80\x02Nr\xff\xff\xff\xff.", ""), (b"\x80\x02NQ.", "names no storage"),
    (b"\x80\x02" + tensor_code(offset=1) + b".", "beyond its storage"),
    (b"\x80\x02" + tensor_code(offset=-1) + b".", "impossible"),
    (b"\x80\x02" + tensor_code(size=(-3,)) + b".", "impossible"),
    (b"\x80\x02" + tensor_code(stride=(-1,)) + b".", "impossible"),
    (b"\x80\x02" + tensor_code(size=(3, 1)) + b".", "impossible"),
    (b"\x80\x02" + tensor_code(size=(1 << 63,), stride=(0,)) + b".", "impossible"),
    (b"\x80\x02" + tensor_code(size=(1 << 40,), stride=(0,)) + b".", "expanded"),
    (b"\x80\x02" + tensor_code(size=(1.0,)) + b".", "impossible"),
    (b"\x80\x02" + tensor_code(count=4) + b".", "12 bytes and not 16"),
    (b"\x80\x02" + tensor_code(count=-1) + b".", "size"),
    (b"\x80\x02" + tensor_code(key="1") + b".", "no record data/1"),
    (b"\x80\x02" + tensor_code(key="../0") + b".", "no record"),
    (b"\x80\x02" + tensor_code(kind=b"N") + b".", "class"),
    (b"\x80\x02" + tensor_code(kind=b"ctorch.storage\nUntypedStorage\n", count=12) + b".", "storage or a type"),
    (b"\x80\x02" + tensor_code(size=(1,) * 100, stride=(1,) * 100) + b".", "ValueError"),
])
def test_a_damaged_program_is_refused(code: bytes, words: str, tmp_path: Path) -> None:
    if words == "":
        assert pickles.load(program(tmp_path, code)) is None
        return
    with pytest.raises(FormatError, match=words) as caught:
        pickles.load(program(tmp_path, code))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_unknown_instructions_are_refused(tmp_path: Path) -> None:
    for code in (b"\x80\x02cos\nsystem\n)\x81.", b"(cos\nsystem\no.", b"(ios\nsystem\n.", b"\x82\x01.",
                 b"\x80\x04\x8c\x02os\x8c\x06system\x93."):
        with pytest.raises(UnsafeError, match="os.system|EXT1|INST"):
            pickles.load(program(tmp_path, code))


# ---------------------------------------------------------------- what is cut short, damaged or something else

def test_every_way_to_cut_an_archive_is_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0)}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            pickles.load(tmp_path / "x")


def test_every_way_to_cut_a_stream_is_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            pickles.load(tmp_path / "x")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One small file of each form."""
    folder = tmp_path_factory.mktemp("wholes")
    bf16 = torch.ones(2, dtype=torch.bfloat16)
    tree = OrderedDict(a=torch.arange(6.0).reshape(2, 3).t(), b=bf16, c=[1, "x", 2.5, None])
    torch.save(tree, folder / "zip", pickle_protocol=2)
    torch.save(tree, folder / "four", pickle_protocol=4)
    torch.save(tree, folder / "stream", _use_new_zipfile_serialization=False)
    rewritten(folder / "zip", folder / "deflated", lambda _, content: content, zipfile.ZIP_DEFLATED)
    pickles.dump(folder / "ours", pickles.load(folder / "zip"))
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def read_all(tree: Any) -> None:
    if isinstance(tree, Tensor):
        assert tree.array().shape == tree.shape
        list(tree.blocks())
    elif isinstance(tree, (list, tuple, dict)):
        for child in tree.values() if isinstance(tree, dict) else tree:
            read_all(child)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_a_changed_file_opens_or_says_why(wholes: list[bytes], tmp_path_factory: pytest.TempPathFactory,
                                          data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from(wholes)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["byte", "cut", "double"]))
        if kind == "byte":
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[at:at + data.draw(st.integers(1, 8))]
        else:
            changed[at:at] = changed[at:at + data.draw(st.integers(1, 30))]
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(changed)
    try:
        read_all(pickles.load(path))
        pickles.verify(path)
    except DanqingError as error:
        assert "\n" not in str(error)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_changed_program_runs_or_says_why(wholes: list[bytes], tmp_path_factory: pytest.TempPathFactory,
                                            data: st.DataObject) -> None:
    """The checksum is mended here, so that the pickle machine sees the change."""
    archives = [io.BytesIO(each) for each in wholes if each.startswith(b"PK")]
    with zipfile.ZipFile(data.draw(st.sampled_from(archives))) as old:
        code = bytearray(next(old.read(name) for name in old.namelist() if name.endswith("data.pkl")))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(code) - 1))
        code[at:at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=4))
    try:
        read_all(pickles.load(program(tmp_path_factory.getbasetemp(), bytes(code), "changed.zip")))
    except DanqingError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"<!DOCTYPE html>", "web page"), (b"\n<html>", "web page"), (b"\x1f\x8b\x08", "gzip"), (b"\x89HDF\r\n", "HDF5"),
    (pickle.dumps({"a": 1}), "plain pickle"), (b"hello", "neither"), (b"PK\x03\x04" + b"\0" * 60, "cut short"),
    (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2) + pickle.dumps({}, 2), "another version"),
    (pickle.dumps(MAGIC, 2), "damaged"),
])
def test_another_kind_of_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(FormatError, match=words) as caught:
        pickles.load(tmp_path / "x.bin")
    assert str(tmp_path / "x.bin") in str(caught.value)


def test_another_kind_of_archive_is_named(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos", "w") as archive:
        archive.writestr("a.png", b"")
    with pytest.raises(FormatError, match="none of torch's: it holds a.png"):
        pickles.load(tmp_path / "photos")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script")
    with pytest.raises(FormatError, match="TorchScript"):
        pickles.load(tmp_path / "script")
    path = rewritten(saved, tmp_path / "missing", lambda name, content: None if name == "data/3" else content)
    with pytest.raises(FormatError, match="no record data/3"):
        pickles.load(path)
    path = rewritten(saved, tmp_path / "order", lambda name, content: b"middle" if name == "byteorder" else content)
    with pytest.raises(FormatError, match="byte order"):
        pickles.load(path)
    with zipfile.ZipFile(tmp_path / "twice", "w") as archive, pytest.warns(UserWarning):
        for _ in range(2):
            archive.writestr("archive/data.pkl", b"N.")
    with pytest.raises(FormatError, match="more than once"):
        pickles.load(tmp_path / "twice")


def test_a_record_that_reaches_beyond_the_file_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/4"))
    at = content.rindex(name.encode()) - 46
    content[at + 20:at + 28] = struct.pack("<II", 1 << 20, 1 << 20)
    saved.write_bytes(content)
    with pytest.raises(FormatError, match="cut short: .*data/4 ends at byte"):
        pickles.load(saved)


def test_a_stream_with_other_storages_than_its_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x").read_bytes()
    keys = content.rindex(b"]q\x00X")
    (tmp_path / "x").write_bytes(content[:keys + 8] + b"?" + content[keys + 9:])
    with pytest.raises(FormatError, match="other storages"):
        pickles.load(tmp_path / "x")


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that claims to inflate beyond what deflate can do, and a pickle beyond any state dict."""
    monkeypatch.setattr(torch_archives, "_LARGEST_PICKLE", 1_000_000)
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N." + b"\0" * 1_000_000)
    with pytest.raises(FormatError, match="more than any state dict"):
        pickles.load(tmp_path / "x")
    content = bytearray((tmp_path / "x").read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24:at + 28] = struct.pack("<I", 4_000_000_000)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match="cannot have the size"):
        pickles.load(tmp_path / "x")


def test_damage_in_the_values_is_found(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    extent = pickles.load(saved)["w3"].extent
    content[extent.offset + 5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(FormatError, match="1 of its records") as caught:
        pickles.verify(saved)
    assert len(caught.value.data["records"]) == 1


def test_damage_in_the_program_is_found(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[content.index(b"FloatStorage") - 40] ^= 1
    saved.write_bytes(content)
    with pytest.raises(FormatError, match="checksum"):
        pickles.load(saved)
