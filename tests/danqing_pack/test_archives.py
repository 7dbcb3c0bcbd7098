"""Archives round-trip, never change their bytes, and give a stranger's archive a sentence instead of the disk."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from danqing_pack import archives, safe_members
from danqing_pack.archives import read_archive, unpack_archive, write_archive
from danqing_pack.errors import DanqingError, FormatError, UnsafeError
from danqing_pack.tar_stream import BLOCK, MAX_EXTENSION, TarReader, header
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:      # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
          ) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    return info, content


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpacked(data: bytes, tmp_path: Path, **options: int) -> dict[str, bytes]:
    """What an archive of these bytes lays down in an empty folder."""
    (tmp_path / "archive").write_bytes(data)
    target = tmp_path / "target"
    target.mkdir(exist_ok=True)
    digests = unpack_archive(tmp_path / "archive", target, **options)
    files = below(target)
    assert digests == {name: sha256(content).hexdigest() for name, content in files.items()}
    return files


# ---- writing

def test_members_are_flat_anonymous_and_small_ones_first(tmp_path: Path) -> None:
    big = os.urandom(archives.SMALL + 1)
    (tmp_path / "big").write_bytes(big)
    files = {"vocab.txt": b"v", "big.bin": tmp_path / "big", "config.json": b"{}", "Also.bin": big, "a/b.json": b"[]"}
    digests = write_archive(tmp_path / "out", files, lambda made: ("danqing.json", repr(sorted(made)).encode()))
    assert digests["big.bin"] == digests["Also.bin"] == sha256(big).hexdigest() and "danqing.json" not in digests
    with tarfile.open(tmp_path / "out") as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        assert names == ["a/b.json", "config.json", "vocab.txt", "Also.bin", "big.bin", "danqing.json"]
        closing = archive.extractfile("danqing.json")
        assert closing is not None and closing.read() == repr(sorted(files)).encode()
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime, each.mode, each.type) for each in members} == {
        (0, 0, "", "", 0, 0o644, tarfile.REGTYPE)}
    assert (tmp_path / "out").read_bytes()[:8] == b"\x1f\x8b\x08" + bytes(5), "a name or a time in the header"


def test_bytes_depend_on_nothing_but_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(1 << 21) + bytes(1 << 21) + os.urandom(12345)
    made = []
    for run, threads in enumerate((1, 2, 3, 2)):
        source = tmp_path / f"source{run}"
        source.mkdir()
        (source / "w").write_bytes(content)
        os.utime(source / "w", (run, run))
        (source / "w").chmod(0o600 + run)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, threads=threads: set(range(threads)), raising=False)
        files = {"w": source / "w", "config.json": b"{}"}
        write_archive(tmp_path / "out", files if run % 2 else dict(reversed(files.items())))
        made.append((tmp_path / "out").read_bytes())
    assert made[0] == made[1] == made[2] == made[3]


def test_other_readers_take_it(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "丹" * 60 + "/青.txt": b"x", "n" * 120 + "/" + "m" * 120: b"y"}
    write_archive(tmp_path / "out", files)
    with tarfile.open(tmp_path / "out") as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == files    # type: ignore[union-attr]
    listed = subprocess.run(["tar", "tzf", tmp_path / "out", "--quoting-style=literal"], capture_output=True, text=True)
    assert sorted(listed.stdout.splitlines()) == sorted(files) and not listed.stderr


def test_a_member_may_be_larger_than_octal_can_say() -> None:
    size = (8 << 30) + 5
    info = tarfile.TarInfo.frombuf(header("big", size)[-BLOCK:], "utf-8", "strict")
    assert info.name == "big"
    blocks = header("big", size)

    def read(n: int) -> bytes:
        nonlocal blocks
        data, blocks = blocks[:n], blocks[n:]
        return data

    assert next(iter(TarReader(read, "big.tar"))).size == size


@pytest.mark.parametrize("name", ["", ".", "../a", "/a", "a//b", "./a", "a/", "a\\b", "a\nb", "C:a", "x/" * 40 + "x"])
def test_names_that_no_reader_would_take_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(DanqingError):
        write_archive(tmp_path / "out", {name: b""})
    assert not (tmp_path / "out").exists()


def test_names_that_collide_are_not_written(tmp_path: Path) -> None:
    for files in ({"a": b"", "A": b""}, {"a": b"", "a/b": b""}, {"caf\u00e9": b"", "cafe\u0301": b""}):
        with pytest.raises(UnsafeError):
            write_archive(tmp_path / "out", files)


@pytest.mark.parametrize("change", [b"longer than it was", b""])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, change: bytes) -> None:
    (tmp_path / "w").write_bytes(b"content")

    class Changing(type(tmp_path)):      # type: ignore[misc]
        def open(self, *arguments: object, **options: object) -> object:
            (tmp_path / "w").write_bytes(change)
            return super().open(*arguments, **options)

    with pytest.raises(FormatError, match="changed while it was packed"):
        write_archive(tmp_path / "out", {"w": Changing(tmp_path / "w")})


def test_a_full_disk_is_an_error_and_no_hang(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_archive(Path("/dev/full"), {"w": os.urandom(20 << 20)})


# ---- round trips

LETTERS = st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="/\\")
NAMES = st.text(LETTERS, min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..", "__MACOSX", ".DS_Store") and not name.startswith("._") and name[1:2] != ":"
    and len(name.encode()) < 256)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PLENTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PLENTY
@given(st.dictionaries(PATHS, st.binary(max_size=2000), min_size=1, max_size=8))
def test_any_tree_round_trips(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("tree")
    try:
        write_archive(folder / "archive", files)
    except UnsafeError:      # two names for one place
        return
    assert unpacked((folder / "archive").read_bytes(), folder) == files


def test_every_kind_of_archive_is_read(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "below/w.bin": os.urandom(3 << 20), "empty": b""}
    members = [entry(name, content) for name, content in files.items()]
    plain = tar_of(*members, mode="w")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("below/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    kinds = {"plain": plain, "gz": gzip.compress(plain, 1), "bz2": bz2.compress(plain), "zip": zipped.getvalue(),
             "gnu": tar_of(*members, format=tarfile.GNU_FORMAT), "ustar": tar_of(*members, format=tarfile.USTAR_FORMAT),
             "several gzip members": gzip.compress(plain[:1000], 1) + gzip.compress(plain[1000:], 1)}
    for kind, data in kinds.items():
        (tmp_path / kind).mkdir()
        assert unpacked(data, tmp_path / kind) == files, kind


def test_names_of_every_dialect_are_read(tmp_path: Path) -> None:
    long = "丹" * 80 + "/" + "n" * 150
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        (tmp_path / str(number)).mkdir()
        assert unpacked(tar_of(entry(long, b"x"), entry("p/" * 20 + "q" * 90, b"y"), format=format),
                        tmp_path / str(number)) == {long: b"x", "p/" * 20 + "q" * 90: b"y"}


def test_what_tar_and_macs_add_is_passed_over(tmp_path: Path) -> None:
    data = tar_of(entry("./", kind=tarfile.DIRTYPE), entry("./config.json", b"{}"), entry("./._config.json", b"junk"),
                  entry(".DS_Store", b"junk"), entry("__MACOSX/x", b"junk"), entry("below/", kind=tarfile.DIRTYPE))
    assert unpacked(data, tmp_path) == {"config.json": b"{}"}


def test_files_are_laid_down_without_a_stranger_s_permissions(tmp_path: Path) -> None:
    info, content = entry("run.sh", b"x")
    info.mode = 0o6777
    before = os.umask(0o022)
    try:
        unpacked(tar_of((info, content)), tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "target" / "run.sh").stat().st_mode) == 0o644


# ---- hostile archives

@pytest.mark.parametrize(("member", "fact"), [
    (entry("/etc/danqing", b"x"), "absolute"),
    (entry("../outside", b"x"), "leads out"),
    (entry("a/../../outside", b"x"), "leads out"),
    (entry("..", kind=tarfile.DIRTYPE), "leads out"),
    (entry("C:\\windows", b"x"), "absolute"),
    (entry("a\\..\\b", b"x"), "backslash"),
    (entry("a\x1b[2J", b"x"), "control characters"),
    (entry("d/" * 40 + "x", b"x"), "too long"),
    (entry("n" * 300, b"x"), "too long"),
    (entry("link", kind=tarfile.SYMTYPE, target="/etc/passwd"), "symbolic link to '/etc/passwd'"),
    (entry("link", kind=tarfile.SYMTYPE, target="config.json"), "symbolic link"),
    (entry("link", kind=tarfile.LNKTYPE, target="../outside"), "hard link"),
    (entry("null", kind=tarfile.CHRTYPE), "character device"),
    (entry("disk", kind=tarfile.BLKTYPE), "block device"),
    (entry("pipe", kind=tarfile.FIFOTYPE), "named pipe"),
    (entry("sparse", kind=tarfile.GNUTYPE_SPARSE), "sparse file"),
    (entry("config.json", b"again"), "twice"),
    (entry("Config.JSON", b"again"), "one place on some disks"),
    (entry("config.json/below", b"x"), "twice"),
    (entry("config.json", kind=tarfile.DIRTYPE), "twice"),
    (entry(".", b"x"), "without a name"),
])
def test_a_hostile_member_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], fact: str) -> None:
    with pytest.raises(UnsafeError, match=fact) as caught:
        unpacked(tar_of(entry("config.json", b"{}"), member), tmp_path)
    assert "\x1b" not in str(caught.value)
    assert below(tmp_path / "target").keys() <= {"config.json"}
    assert sorted(os.listdir(tmp_path)) == ["archive", "target"]


def test_a_link_cannot_redirect_a_later_member(tmp_path: Path) -> None:
    data = tar_of(entry("d", kind=tarfile.SYMTYPE, target=str(tmp_path)), entry("d/owned", b"x"))
    with pytest.raises(UnsafeError, match="symbolic link"):
        unpacked(data, tmp_path)
    assert not (tmp_path / "owned").exists()


def test_hostile_zips_are_refused(tmp_path: Path) -> None:
    def zipped(name: str, mode: int = 0o100644) -> bytes:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(info, b"/etc/passwd")
        return buffer.getvalue()

    for data, fact in [(zipped("../x"), "leads out"), (zipped("/x"), "absolute"), (zipped(""), "without a name"),
                       (zipped("x", 0o120777), "symbolic link"), (zipped("archive/data.pkl"), "checkpoint of torch")]:
        with pytest.raises(DanqingError, match=fact):
            unpacked(data, tmp_path)
    assert below(tmp_path / "target") == {}


def test_bombs_are_refused_before_they_are_written(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    with tarfile.open(bomb, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 80 << 20
        archive.addfile(info, io.BytesIO(bytes(80 << 20)))
    (tmp_path / "target").mkdir()
    with pytest.raises(UnsafeError, match=r"compression bomb.*limit=BYTES"):
        unpack_archive(bomb, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []
    assert unpack_archive(bomb, tmp_path / "target", limit=80 << 20).keys() == {"zeros"}
    with pytest.raises(UnsafeError, match="bomb"), read_archive(bomb, limit=(80 << 20) - 1) as members:
        next(members)


def test_a_stated_size_is_not_believed(tmp_path: Path) -> None:
    for size in (1 << 40, (1 << 62) - 1):
        with pytest.raises(UnsafeError, match="bomb"):
            unpacked(gzip.compress(header("huge", size) + bytes(1024), 1), tmp_path)
    assert below(tmp_path / "target") == {}


def test_more_than_the_disk_holds_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3})())
    with pytest.raises(OSError, match="No space left"):
        unpacked(tar_of(entry("w", b"four")), tmp_path)
    assert below(tmp_path / "target") == {}


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_members, "MAX_MEMBERS", 20)
    with pytest.raises(UnsafeError, match="more than 20 members"):
        unpacked(tar_of(*[entry(f"d{number}", kind=tarfile.DIRTYPE) for number in range(21)]), tmp_path)


def test_headers_without_members_are_refused(tmp_path: Path) -> None:
    extension = tar_of(entry("x" * 200, b"x"), mode="w")[:2 * BLOCK]
    with pytest.raises(UnsafeError, match="header extensions"):
        unpacked(gzip.compress(extension * 100 + bytes(1024)), tmp_path)
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, MAX_EXTENSION + 1
    with pytest.raises(UnsafeError, match="header extensions"):
        unpacked(info.tobuf() + bytes(4096), tmp_path)


def test_zeros_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="bomb"):
        unpacked(tar_of(entry("a", b"x"), mode="w") + bytes(65 << 20), tmp_path, limit=1)


@pytest.mark.parametrize("kind", ["gz", "plain", "bz2", "zip"])
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    plain = tar_of(entry("config.json", b"{}"), entry("w.bin", os.urandom(700)), mode="w")[:7 * BLOCK]
    data = {"gz": gzip.compress(plain, 1), "plain": plain, "bz2": bz2.compress(plain)}.get(kind) or b""
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("w.bin", os.urandom(700))
        data = buffer.getvalue()
    whole = len(data) - (BLOCK if kind == "plain" else 0)      # one zero block already ends a tar
    for cut in [*range(0, whole, 37), whole - 1]:
        (tmp_path / "archive").write_bytes(data[:cut])
        with pytest.raises(FormatError), read_archive(tmp_path / "archive") as members:
            for _ in members:
                pass


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    plain = tar_of(entry("config.json", b"{}"), mode="w")
    for data in (plain + b"x", plain + plain, gzip.compress(plain) + b"garbage", gzip.compress(plain + b"x"),
                 gzip.compress(plain) + gzip.compress(plain), bz2.compress(plain + b"x")):
        with pytest.raises(FormatError):
            unpacked(data, tmp_path)
        for path in (tmp_path / "target").iterdir():
            path.unlink()


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"BZh", b"PK\3\4", b"<html>404</html>", b"\x80\x02}q\x00.",
                                  bytes(10240), gzip.compress(b"just a file", mtime=0), gzip.compress(b"", mtime=0),
                                  bz2.compress(b"x" * 5000)])
def test_what_is_no_archive_is_said_so(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError):
        unpacked(data, tmp_path)


def test_an_archive_without_files_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no files"):
        unpacked(tar_of(entry("folder", kind=tarfile.DIRTYPE)), tmp_path)


def test_places_that_are_no_files(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FormatError), read_archive(place):
            raise AssertionError("the block must not run")


def test_a_sparse_file_of_the_pax_dialect_is_refused(tmp_path: Path) -> None:
    info, content = entry("w.bin", b"not the content but a map of it")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100"}
    with pytest.raises(UnsafeError, match="sparse file"):
        unpacked(tar_of((info, content)), tmp_path)


def test_a_folder_that_states_a_size_has_no_content(tmp_path: Path) -> None:
    info, _ = entry("d", kind=tarfile.DIRTYPE)
    info.size = 4096
    data = info.tobuf(tarfile.USTAR_FORMAT) + tar_of(entry("d/x", b"1"), mode="w")
    assert unpacked(data, tmp_path) == {"d/x": b"1"}


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    data = bytearray(tar_of(entry("a", b"1"), entry("b", b"2"), mode="w"))
    data[2 * BLOCK] = ord("c")
    with pytest.raises(FormatError, match="checksum"):
        unpacked(bytes(data), tmp_path)


def test_names_that_are_not_utf8_and_global_renames_are_refused(tmp_path: Path) -> None:
    info, content = entry("x", b"1")
    info.name = "青".encode("gbk").decode("latin-1")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(FormatError, match="UTF-8"):
        unpacked(buffer.getvalue(), tmp_path)
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w", pax_headers={"path": "../x"}) as archive:
        archive.addfile(*[(info, io.BytesIO(content)) for info, content in [entry("x", b"1")]][0])
    with pytest.raises(UnsafeError, match="global"):
        unpacked(buffer.getvalue(), tmp_path)
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w", pax_headers={"comment": "git archive"}) as archive:
        archive.addfile(*[(info, io.BytesIO(content)) for info, content in [entry("x", b"1")]][0])
    assert unpacked(buffer.getvalue(), tmp_path) == {"x": b"1"}


# ---- any bytes at all

SEEDS: list[Callable[[], bytes]] = [
    lambda: tar_of(entry("config.json", b"{}"), entry("丹/青", b"x" * 600), entry("d", kind=tarfile.DIRTYPE), mode="w"),
    lambda: tar_of(entry("n" * 200, b"x"), entry("link", kind=tarfile.SYMTYPE, target="t" * 200), mode="w",
                   format=tarfile.GNU_FORMAT),
    lambda: header("big", 9 << 30) + bytes(1024),
]


def mutations(size: int) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    return st.lists(st.tuples(st.integers(0, size), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4)


def mend(block: bytes) -> bytes:
    """A header whose checksum fits what was done to it, so that the mutation gets past the first gate."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


@PLENTY
@given(st.integers(0, len(SEEDS) - 1), mutations(3 * BLOCK), st.booleans(),
       st.sampled_from(["plain", "gz", "gz after"]))
def test_mutated_archives_stay_inside_and_raise_only_sentences(
        tmp_path_factory: pytest.TempPathFactory, seed: int, changes: list[tuple[int, bytes]], mended: bool, kind: str
) -> None:
    data = SEEDS[seed]()
    if kind == "gz after":
        data = gzip.compress(data, 1)
    for place, new in changes:
        place = place % len(data)
        data = data[:place] + new + data[place + len(new):]
    if mended and kind != "gz after":
        blocks = [data[at:at + BLOCK] for at in range(0, len(data), BLOCK)]
        data = b"".join(mend(block) if block[257:262] == b"ustar" else block for block in blocks)
    if kind == "gz":
        data = gzip.compress(data, 1)
    folder = tmp_path_factory.mktemp("mutated")
    with suppress(DanqingError):
        unpacked(data, folder)
    assert set(os.listdir(folder)) == {"archive", "target"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))


@PLENTY
@given(mutations(400))
@example([(0, b"PK\x05\x06")])
@example([(348, b"\x00")])      # an entry without a name
def test_mutated_zips_raise_only_sentences(tmp_path_factory: pytest.TempPathFactory,
                                           changes: list[tuple[int, bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"{}" * 50)
        archive.writestr("d/w", b"x" * 50)
    data = buffer.getvalue()
    for place, new in changes:
        place = place % len(data)
        data = data[:place] + new + data[place + len(new):]
    folder = tmp_path_factory.mktemp("zip")
    with suppress(DanqingError):
        unpacked(data, folder)
    assert set(os.listdir(folder)) == {"archive", "target"}


@PLENTY
@given(st.binary(max_size=1500))
def test_any_bytes_raise_only_sentences(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    with suppress(DanqingError):
        unpacked(data, folder)
    with suppress(DanqingError):
        unpacked(b"\x1f\x8b\x08\x00" + data, folder)


# ---- reading

def test_reading_reports_the_bytes_of_the_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "out", {"w.bin": os.urandom(3 << 20)})
    done: list[int] = []
    (tmp_path / "target").mkdir()
    unpack_archive(tmp_path / "out", tmp_path / "target", progress=done.append)
    assert sum(done) == (tmp_path / "out").stat().st_size and min(done) > 0
