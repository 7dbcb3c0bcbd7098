"""Tables of texts and images: every accepted form, every refused one, the way to an image folder and back."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from danqing_pack.base64_images import NotAnImage, decode_image, extension
from danqing_pack.errors import DanqingError, FormatError, RequestError
from danqing_pack.examples import Example, open_examples
from danqing_pack.image_folders import stays_inside
from danqing_pack.table_conversion import to_folder, to_tsv
from danqing_pack.tables import Schema, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (seed % 256, 7, 9)).save(file, "PNG")
    return file.getvalue()


def encoded(image: bytes) -> bytes:
    return base64.b64encode(image)


@pytest.fixture
def rows(golden: Path) -> list[tuple[str, str, bytes]]:
    """What the golden table holds, read by nothing of ours."""
    lines = (golden / "easynlp/tsv/train.tsv").read_text(encoding="utf-8").splitlines()
    return [(idx, text, base64.urlsafe_b64decode(cell.replace("+", "-").replace("/", "_")))
            for idx, text, cell in (line.split("\t") for line in lines)]


# ---- there and back

@pytest.mark.parametrize("name", ["train.tsv", "train_two_columns.tsv"])
def test_the_golden_tables_go_there_and_back(
        name: str, golden: Path, rows: list[tuple[str, str, bytes]], tmp_path: Path) -> None:
    table = golden / "easynlp/tsv" / name
    done = to_folder(table, tmp_path / "folder")
    assert (done.rows, done.bad, done.image_bytes) == (6, 0, sum(len(image) for *_, image in rows))
    records = [json.loads(line) for line in (tmp_path / "folder/metadata.jsonl").read_text("utf-8").splitlines()]
    assert [record["text"] for record in records] == [text for _, text, _ in rows]
    assert [(tmp_path / "folder" / record["file_name"]).read_bytes() for record in records] == [r[2] for r in rows]
    assert {record["file_name"].rpartition(".")[2] for record in records} == {"png", "jpg"}

    to_tsv(tmp_path / "folder", tmp_path / "back.tsv")
    cells = [line.rpartition(b"\t") for line in table.read_bytes().splitlines()]
    assert b"_9j_" in cells[4][2]       # images in the other alphabet come back in the standard one: that is normalised
    expected = [head + tab + image.translate(bytes.maketrans(b"-_", b"+/")) + b"\n" for head, tab, image in cells]
    assert (tmp_path / "back.tsv").read_bytes() == b"".join(expected)


def test_datasets_loads_the_folder(golden: Path, rows: list[tuple[str, str, bytes]], tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    to_folder(golden / "easynlp/tsv/train.tsv", tmp_path / "folder")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), split="train",
                                   cache_dir=str(tmp_path / "cache"))
    assert loaded["idx"][:] == [idx for idx, *_ in rows] and loaded["text"][:] == [text for _, text, _ in rows]
    assert loaded[3]["image"].size == Image.open(io.BytesIO(rows[3][2])).size


def _with_white_space(cell: bytes) -> bytes:
    return b" " + b" ".join(cell[i:i + 5] for i in range(0, len(cell), 5)) + b" \r "


FORMS = (
    encoded, base64.urlsafe_b64encode, lambda image: _with_white_space(encoded(image)),
    lambda image: b"data:image/png;base64," + encoded(image),
    lambda image: b" data:image/jpeg;charset=x;base64," + base64.urlsafe_b64encode(image),
)
_text = st.text(st.characters(exclude_characters="\t\r\n\0\ufeff", exclude_categories=["Cs"]), max_size=20)
_image = st.binary(max_size=300).map(lambda rest: b"\x89PNG\r\n\x1a\n" + rest)
_row = st.tuples(_text, _text.filter(str.strip), _image, st.sampled_from(FORMS))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(_row, min_size=1, max_size=6, unique_by=lambda row: row[0]), end=st.sampled_from([b"\n", b"\r\n"]),
       bom=st.booleans(), cut=st.booleans(), blank=st.booleans(), idx_last=st.booleans())
def test_any_table_comes_back(rows: list, end: bytes, bom: bool, cut: bool, blank: bool, idx_last: bool,
                              tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    order = [1, 2, 0] if idx_last else [0, 1, 2]
    lines = [[(idx.encode(), text.encode(), form(image))[i] for i in order] for idx, text, image, form in rows]
    content = (end * (1 + blank)).join(b"\t".join(cells) for cells in lines) + (b"" if cut else end)
    (tmp_path / "a.tsv").write_bytes((b"\xef\xbb\xbf" if bom else b"") + content)
    names = [("idx", "text", "imgbase64")[i] for i in order]
    to_folder(tmp_path / "a.tsv", tmp_path / "folder", ",".join(names))
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv")
    plain = [[(idx.encode(), text.encode(), encoded(image))[i] for i in order] for idx, text, image, _ in rows]
    assert (tmp_path / "b.tsv").read_bytes() == b"".join(b"\t".join(cells) + b"\n" for cells in plain)
    read = open_examples(tmp_path / "a.tsv", ",".join(names))
    assert list(read) == [Example(idx, text, image) for idx, text, image, _ in rows]
    assert list(open_examples(tmp_path / "folder")) == list(read)


def test_more_columns_keep_their_order_and_a_foreign_folder_ends_with_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"7\t" + encoded(png()) + "\tred\t猫\n".encode())
    to_folder(tmp_path / "a.tsv", tmp_path / "folder", "idx,pic:str:1,colour:str:1,caption,", text_column="caption",
              image_column="pic")
    assert list(json.loads((tmp_path / "folder/metadata.jsonl").read_bytes())) == ["idx", "file_name", "colour", "text"]
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv")
    assert (tmp_path / "b.tsv").read_bytes() == (tmp_path / "a.tsv").read_bytes()
    to_tsv(tmp_path / "folder", tmp_path / "c.tsv", "text,imgbase64")
    assert (tmp_path / "c.tsv").read_bytes() == "猫\t".encode() + encoded(png()) + b"\n"

    foreign = tmp_path / "foreign"
    (foreign / "sub").mkdir(parents=True)
    (foreign / "sub/a.png").write_bytes(png())
    (foreign / "metadata.jsonl").write_text('{"file_name": "sub/a.png", "text": "猫", "score": 0.5, "label": 3}\n',
                                            encoding="utf-8")
    to_tsv(foreign, tmp_path / "d.tsv")
    assert (tmp_path / "d.tsv").read_bytes() == "猫\t0.5\t3\t".encode() + encoded(png()) + b"\n"


def test_a_table_of_predictions_is_read_back(tmp_path: Path) -> None:
    images = [png(i) for i in range(4)]
    several = str([encoded(image).decode() for image in images[1:3]])
    rows = [f"7\ta\t{[encoded(images[0]).decode()]}", f"8\tb\t{several}", f"9\tc\t{encoded(images[3])!r}"]
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    done = to_folder(tmp_path / "a.tsv", tmp_path / "folder")
    assert (done.rows, done.images) == (3, 4)
    assert [(each.idx, each.image_bytes) for each in open_examples(tmp_path / "folder")] == list(
        zip(["7", "8", "8", "9"], images, strict=True))
    assert {"00000001.png", "00000002-1.png", "00000002-2.png"} < set(os.listdir(tmp_path / "folder"))
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv", allow=["repeated-idx"])
    assert (tmp_path / "b.tsv").read_bytes().count(b"\n") == 4
    (tmp_path / "a.tsv").write_text("7\ta\t[]\n")
    with pytest.raises(FormatError, match="the list holds no image"):
        to_folder(tmp_path / "a.tsv", tmp_path / "other")


def test_a_field_of_many_megabytes(tmp_path: Path) -> None:
    image = b"\xff\xd8\xff" + os.urandom(30_000_000)
    (tmp_path / "a.tsv").write_bytes(b"1\ta\t" + encoded(image) + b"\n")
    to_folder(tmp_path / "a.tsv", tmp_path / "folder")
    assert (tmp_path / "folder/00000001.jpg").read_bytes() == image
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv")
    assert (tmp_path / "b.tsv").read_bytes() == (tmp_path / "a.tsv").read_bytes()


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    image = b"\xff\xd8\xff" + os.urandom(200_000)
    with open(tmp_path / "a.tsv", "wb") as file:
        for index in range(150):                    # 40 MB
            file.write(b"%d\ta\t" % index + encoded(image) + b"\n")
    tracemalloc.start()
    to_folder(tmp_path / "a.tsv", tmp_path / "folder")
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


# ---- what is refused

BAD = {
    "too few cells": (b"2\tb", "2 cells, where the schema names 3"),
    "too many cells": (b"2\tb\t" + encoded(png()) + b"\tx", "4 cells, where the schema names 3"),
    "rows that end in CR": (b"2\tb\t" + encoded(png()) + b"\r3\tc\t" + encoded(png()), "carriage returns"),
    "a CR in the text": (b"2\tb\rb\t" + encoded(png()), "text holds a carriage return"),
    "no base64": (b"2\tb\tiVBO!wKGgo=", "'!' stands at character 5"),
    "cut short": (b"2\tb\t" + encoded(png())[:-1], "not a multiple of 4"),
    "padding inside": (b"2\tb\tiV==iV==", "'=' before its end"),
    "no image": (b"2\tb\t" + encoded(b"hello, world"), "begin with 'hello, w'"),
    "an empty image": (b"2\tb\t", "the image is empty"),
    "an empty text": (b"2\t \t" + encoded(png()), "--allow empty-text"),
    "a repeated idx": (b"1\tb\t" + encoded(png()), "the idx '1' occurred before"),
    "other text": ("2\t红\t".encode("gbk") + encoded(png()), "text is not UTF-8 (0xba at byte 1); it could be GBK"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_stops_or_is_skipped_or_collected(case: str, tmp_path: Path) -> None:
    bad, reason = BAD[case]
    good = [b"1\ta\t" + encoded(png(1)) + b"\n", b"5\te\t" + encoded(png(5))]
    (tmp_path / "a.tsv").write_bytes(good[0] + b"\n" + bad + b"\r\n" + good[1])
    with pytest.raises(FormatError) as raised:
        to_folder(tmp_path / "a.tsv", tmp_path / "folder")
    assert raised.value.line == 3 and reason in str(raised.value) and str(tmp_path / "a.tsv") in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv"]

    told: list[FormatError] = []
    done = to_folder(tmp_path / "a.tsv", tmp_path / "folder", on_error="skip", report=told.append)
    assert (done.rows, done.bad, done.bad_rows) == (2, 1, None) and [error.line for error in told] == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "folder"]
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"00000001.png", "00000004.png", "metadata.jsonl"}

    done = to_folder(tmp_path / "a.tsv", tmp_path / "folder", on_error="collect", force=True)
    assert done.bad_rows == tmp_path / "folder.bad.tsv"
    assert done.bad_rows.read_bytes() == bad + b"\r\n"
    with pytest.raises(RequestError, match="bad rows would go, exists"):
        to_folder(tmp_path / "a.tsv", tmp_path / "other", on_error="collect", bad_rows=done.bad_rows)
    assert not (tmp_path / "other").exists()


def test_rows_that_may_be_kept(tmp_path: Path) -> None:
    image = encoded(png())
    content = b"1\t\t" + image + b"\n1\tb\t" + image + b"\n"
    (tmp_path / "a.tsv").write_bytes(content)
    to_folder(tmp_path / "a.tsv", tmp_path / "folder", allow=["empty-text", "repeated-idx"])
    with pytest.raises(FormatError, match="text is empty"):
        to_tsv(tmp_path / "folder", tmp_path / "b.tsv")
    with pytest.raises(FormatError, match="occurred before"):
        to_tsv(tmp_path / "folder", tmp_path / "b.tsv", allow=["empty-text"])
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv", allow=["empty-text", "repeated-idx"])
    assert (tmp_path / "b.tsv").read_bytes() == content


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("1\t红色的圆形\t".encode("gbk") + encoded(png()) + b"\n")
    to_folder(tmp_path / "a.tsv", tmp_path / "folder", encoding="GBK")
    to_tsv(tmp_path / "folder", tmp_path / "b.tsv")
    assert (tmp_path / "b.tsv").read_bytes().startswith("1\t红色的圆形\t".encode())
    (tmp_path / "c.tsv").write_bytes("1\t红\t".encode() + encoded(png()) + b"\n")
    with pytest.raises(FormatError, match="text is not GBK .*; it is UTF-8"):
        to_folder(tmp_path / "c.tsv", tmp_path / "c", encoding="gbk")
    for name in ("utf-16", "klingon"):
        with pytest.raises(RequestError, match="cannot be read: use one of utf-8, gbk"):
            Table(tmp_path / "a.tsv", encoding=name)


FILES = {
    "a UTF-16 table": ("1\ta\tb\n".encode("utf-16"), "is UTF-16: rewrite it as UTF-8"),
    "a gzip file": (b"\x1f\x8b\x08\0\0\0", "is compressed"),
    "a binary file": (b"PK\3\4\0\0\0\0", "no text table: it holds zero bytes"),
    "nothing": (b"", "has no rows"),
    "blank lines": (b"\n\r\n\n", "has no rows"),
    "one column": (b"a\nb\n", "has 1 cell; without --input-schema"),
    "rows that end in CR alone": (b"1\ta\tb\r2\ta\tb\r3\ta\tb\r", "carriage returns that end no row here: write LF or CRLF"),
    "no image column": ("1\t红色的圆形\n".encode(), "the table seems to have no image column (without --input-schema a row"),
    "four columns": (b"a\tb\tc\td\n", "has 4 cells; without --input-schema"),
    "a header": (b"idx\ttext\timgbase64\n", "it looks like a header: --skip-first-line"),
    "only bad rows": (b"1\ta\t!\n", "gives no rows: all 1 are bad"),
}


@pytest.mark.parametrize("case", FILES)
def test_other_files_are_refused_with_a_sentence(case: str, tmp_path: Path) -> None:
    content, reason = FILES[case]
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(FormatError) as raised:
        to_folder(tmp_path / "a.tsv", tmp_path / "folder", on_error="skip" if case == "only bad rows" else "stop")
    assert reason in str(raised.value) and str(raised.value).endswith(".")
    assert os.listdir(tmp_path) == ["a.tsv"]


def test_a_header_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"idx\ttext\timgbase64\n4\ta\t" + encoded(png()) + b"\n")
    to_folder(tmp_path / "a.tsv", tmp_path / "folder", skip_first_line=True)
    assert [each.idx for each in open_examples(tmp_path / "folder")] == ["4"]


@pytest.mark.parametrize("schema, reason", [
    ("idx:str:1,text:text:1", "'text:text:1' is not of the form"), ("idx,,text", "'' is not of the form"),
    ("a:str:1,a:str:1", "names the column 'a' twice"), ("", "schema is empty"),
    ("idx,words,imgbase64", "no column 'text'"), ("file_name,text,imgbase64", "'file_name' cannot stand"),
])
def test_schemas_that_cannot_be(schema: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"1\ta\t" + encoded(png()) + b"\n")
    with pytest.raises(RequestError, match=reason):
        to_folder(tmp_path / "a.tsv", tmp_path / "folder", schema)


def test_a_schema_of_the_knowledge_variant() -> None:
    assert Schema.parse("idx:str:1,text:str:1,lex_id:str:1,\n").names == ("idx", "text", "lex_id")


@pytest.mark.parametrize("line, reason", [
    ('{"file_name": "../a.png", "text": "a"}', "leaves the folder"),
    ('{"file_name": "/etc/passwd", "text": "a"}', "leaves the folder"),
    ('{"file_name": "C:\\\\a.png", "text": "a"}', "leaves the folder"),
    ('{"file_name": "none.png", "text": "a"}', "the image none.png is missing"),
    ('{"file_name": ".", "text": "a"}', "leaves the folder"),
    ('{"file_name": "notes.txt", "text": "a"}', "begin with 'hello'"),
    ('{"file_name": "a.png", "text": "a\\tb"}', "its text holds a tab"),
    ('{"file_name": "a.png", "text": "a\\nb"}', "its text holds a line feed"),
    ('{"file_name": "a.png", "text": "\\ud800"}', "half a character"),
    ('{"file_name": "a.png", "text": ["a"]}', "its text is neither text nor a number"),
    ('{"file_name": "a.png", "text": null}', "its text is neither text nor a number"),
    ('{"file_name": "a.png"}', "it names no text"),
    ('{"text": "a"}', "it names no file_name"),
    ('["a"]', "not a JSON object"),
    ("{", "not a JSON object"),
])
def test_lines_of_metadata_that_make_no_row(line: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "notes.txt").write_bytes(b"hello")
    good = '{"file_name": "a.png", "text": "a"}\n'
    (folder / "metadata.jsonl").write_text(good + line + "\n", encoding="utf-8")
    with pytest.raises(FormatError) as raised:
        to_tsv(folder, tmp_path / "a.tsv")
    assert reason in str(raised.value) and raised.value.line == 2
    assert os.listdir(tmp_path) == ["folder"]
    done = to_tsv(folder, tmp_path / "a.tsv", on_error="collect")
    assert done.rows == 1 and (tmp_path / "a.tsv.bad.jsonl").read_text("utf-8") == line + "\n"


def test_the_first_good_line_names_the_columns(tmp_path: Path) -> None:
    good = '{"file_name": "a.png", "idx": "1", "text": "一"}'
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.jsonl").write_text(f"[]\n{{}}\n{good}\n", encoding="utf-8")
    done = to_tsv(tmp_path, tmp_path / "out.tsv", on_error="skip")
    assert (done.rows, done.bad) == (1, 2)
    assert (tmp_path / "out.tsv").read_bytes() == "1\t一\t".encode() + encoded(png()) + b"\n"
    to_tsv(tmp_path, tmp_path / "named.tsv", on_error="skip", image_column="picture")
    assert (tmp_path / "named.tsv").read_bytes() == (tmp_path / "out.tsv").read_bytes()
    with pytest.raises(FormatError, match="Line 1 of .*: not a JSON object"):
        to_tsv(tmp_path, tmp_path / "other.tsv")
    (tmp_path / "metadata.jsonl").write_text("[]\n{}\n")
    with pytest.raises(FormatError, match="Line 1 of .*: not a JSON object"):
        to_tsv(tmp_path, tmp_path / "other.tsv", on_error="skip")


def test_a_guess_at_the_columns_is_named(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"without --input-schema a row is \(text, imgbase64\) here"):
        to_folder(golden / "easynlp/tsv/test.tsv", tmp_path / "folder")
    with pytest.raises(FormatError) as told:
        to_folder(golden / "easynlp/tsv/test.tsv", tmp_path / "folder", "text,imgbase64")
    assert "input-schema" not in str(told.value)


def test_a_folder_without_metadata_says_where_it_could_be(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"There is no metadata.jsonl in .*empty"):
        (tmp_path / "empty").mkdir()
        to_tsv(tmp_path / "empty", tmp_path / "a.tsv")
    (tmp_path / "empty/train").mkdir()
    (tmp_path / "empty/train/metadata.jsonl").touch()
    with pytest.raises(FormatError, match="there is one in train"):
        open_examples(tmp_path / "empty")
    with pytest.raises(FormatError, match="which is no folder"):
        to_tsv(tmp_path / "nowhere", tmp_path / "a.tsv")


@pytest.mark.parametrize("name, inside", [
    ("a.png", True), ("a/b.png", True), ("..png", True), ("a/../b", False), ("..", False), (".", False), ("", False),
    ("\\\\host\\a", False), ("a\0b", False), ("\\a", False), ("a:b", False),
])
def test_names_that_stay_inside(name: str, inside: bool) -> None:
    assert stays_inside(name) is inside


def test_cells_choose_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"../../evil\ta\t" + encoded(png()) + b"\n")
    to_folder(tmp_path / "a.tsv", tmp_path / "in" / "folder")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a.tsv", "00000001.png", "metadata.jsonl"}


# ---- images

@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_extensions_by_content(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    assert extension(file.getvalue()) == {"JPEG": "jpg"}.get(kind, kind.lower())
    assert decode_image(encoded(file.getvalue())) == file.getvalue()


@pytest.mark.parametrize("image", [b"BM rows of text, not a bitmap", b"RIFF....WAVEfmt ", b"\x89PN", b"\xff\xd8"])
def test_look_alikes_are_no_images(image: bytes) -> None:
    with pytest.raises(NotAnImage):
        extension(image)


# ---- a crash

def test_a_killed_run_leaves_nothing_but_a_hidden_folder(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"".join(b"%d\ta\t" % i + encoded(png()) + b"\n" for i in range(9)) + b"bad\n")
    code = ("import os, sys; from danqing_pack.table_conversion import to_folder\n"
            "to_folder(sys.argv[1], sys.argv[2], on_error='collect', report=lambda error: os.kill(os.getpid(), 9))")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tsv", tmp_path / "folder"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["a.tsv"]
    to_folder(tmp_path / "a.tsv", tmp_path / "folder", on_error="collect")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "folder", "folder.bad.tsv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danqing_pack import table_conversion

    def full(file: int, content: bytes) -> None:
        os.close(file)
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(content)

    monkeypatch.setattr(table_conversion, "_write", full)
    (tmp_path / "a.tsv").write_bytes(b"1\ta\t" + encoded(png()) + b"\n")
    with pytest.raises(DanqingError, match="the disk is full"):
        to_folder(tmp_path / "a.tsv", tmp_path / "folder")
    assert os.listdir(tmp_path) == ["a.tsv"]


# ---- examples

@pytest.mark.parametrize("name", ["train.tsv", "train_two_columns.tsv"])
def test_examples_in_any_order(name: str, golden: Path, rows: list[tuple[str, str, bytes]], tmp_path: Path) -> None:
    table = golden / "easynlp/tsv" / name
    to_folder(table, tmp_path / "folder")
    for path in (table, tmp_path / "folder"):
        examples = pickle.loads(pickle.dumps(open_examples(path)))
        assert len(examples) == 6
        for index in (5, 0, 3, -1):
            assert examples[index] == rows[index]
            assert examples.text(index) == rows[index][1]
        assert [each.idx for each in examples[1:3]] == ["2", "3"]
        assert examples.where(2).startswith("line 3 of ")
        with pytest.raises(IndexError):
            examples[6]


def test_examples_of_a_bad_row_and_of_a_table_that_changed(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    table.write_bytes(b"\n1\ta\t" + encoded(png()) + b"\n2\tb\t!\n3\t\t" + encoded(png(3)))
    examples = open_examples(table, "idx,text,imgbase64")
    assert examples[2] == Example("3", "", png(3))
    with pytest.raises(FormatError, match="Line 3 of .*is not base64"):
        examples[1]
    assert examples.text(1) == "b"
    table.write_bytes(table.read_bytes() + b"\n")
    with pytest.raises(FormatError, match="changed while it was being read"):
        examples[0]
    with pytest.raises(RequestError, match="no column 'imgbase64'"):
        open_examples(table, "idx,text,picture")
    table.unlink()
    with pytest.raises(FormatError, match="changed while it was being read"):
        examples[0]
    table.write_bytes(b"")
    with pytest.raises(FormatError, match="has no rows"):
        open_examples(table, "idx,text,imgbase64")


# ---- the command

def test_the_command(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from danqing import cli

    table, folder, back = golden / "easynlp/tsv/train.tsv", tmp_path / "folder", tmp_path / "back.tsv"
    assert cli.main(["tables", "to-folder", str(table), str(folder)]) == 0
    assert capsys.readouterr().out == f"Wrote {folder}: 6 rows, 6 images of 24.2 kB.\n"
    assert cli.main(["tables", "to-folder", str(table), str(folder)]) == 1
    assert "--force" in capsys.readouterr().err
    assert cli.main(["tables", "to-tsv", str(folder), str(back), "--output-schema", "text,imgbase64"]) == 0
    assert open_examples(back)[5].text == "夕阳下的湖泊"
    back.write_bytes(b"1\n" * 25 + back.read_bytes())
    assert cli.main(["tables", "to-folder", str(back), str(folder), "--force", "--on-error", "collect",
                     "--input-schema", "text:str:1,imgbase64:str:1"]) == 0
    printed = capsys.readouterr()
    assert f"25 bad rows were left out and stand in {folder}.bad.tsv." in printed.out
    assert printed.err.count("Line ") == 20 and "... and 5 more." in printed.err
    assert (tmp_path / "folder.bad.tsv").read_bytes() == b"1\n" * 25
