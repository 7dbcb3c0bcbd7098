"""EasyNLP's command line: the lines of the articles, flags and parameters, and predictions that survive a kill."""

from __future__ import annotations

import argparse
import ast
import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from danqing import cli
from danqing.easynlp_cli.flags import _REFUSED, parse
from danqing.easynlp_cli.parameters import parse_parameters
from danqing.easynlp_cli.predicting import fingerprint, predict
from danqing.easynlp_cli.resumable_table import ResumableTable
from danqing_pack.errors import DanqingError, FormatError, RequestError

ARTICLE = """
    --mode=predict --worker_gpu=0 --tables={tables} --input_schema=idx:str:1,text:str:1 --first_sequence=text
    --outputs={outputs} --output_schema=idx,text,gen_imgbase64 --checkpoint_dir={checkpoint} --sequence_length=288
    --micro_batch_size=8 --app_name=text2image_generation
"""
"""The predict command of the article, but for the paths."""


# ---- flags

def test_the_training_command_of_the_article() -> None:
    args = parse([
        "--mode=train", "--worker_gpu=1", "--tables=./tmp/T2I_train.tsv,./tmp/T2I_val.tsv",
        "--input_schema=idx:str:1,text:str:1,imgbase64:str:1", "--first_sequence=text", "--second_sequence=imgbase64",
        "--checkpoint_dir=./tmp/artist_model_finetune", "--learning_rate=4e-5", "--epoch_num=1", "--random_seed=42",
        "--logging_steps=100", "--save_checkpoint_steps=200", "--sequence_length=288", "--micro_batch_size=8",
        "--app_name=text2image_generation",
        "--user_defined_parameters=\n  pretrain_model_name_or_path=alibaba-pai/pai-painter-base-zh\n  size=256\n",
    ])
    assert (args.mode, args.learning_rate, args.epoch_num, args.save_checkpoint_steps) == ("train", 4e-5, 1.0, 200)
    assert args.user_defined_parameters.split() == [
        "pretrain_model_name_or_path=alibaba-pai/pai-painter-base-zh", "size=256"]


def test_spaces_aliases_and_defaults_as_in_the_original() -> None:
    args = parse(["--mode", "predict", "--train_batch_size", "4", "--checkpoint_path", "x", "--wd", "0.5"])
    assert (args.micro_batch_size, args.checkpoint_dir, args.weight_decay) == (4, "x", 0.5)
    args = parse([])
    assert (args.mode, args.random_seed, args.epoch_num, args.learning_rate, args.micro_batch_size) == (
        "train", 1234, 3.0, 5e-5, 2)
    assert not args.skip_first_line and parse(["--skip_first_line"]).skip_first_line


@pytest.mark.parametrize("word, sentence", [
    ("--mdoe=train", "There is no flag --mdoe; the nearest is --mode."),
    ("--micro-batch-size=3", "There is no flag --micro-batch-size; the nearest is --micro_batch_size."),
    ("--checkpoint=x", "the nearest is --checkpoint_dir."),
    ("--table", "the nearest is --tables."),
    ("predict", "'predict' stands alone; a flag is written --name=value."),
    ("--epoch_num=many", "invalid float value: 'many'"),
    ("--micro_batch_size=0", "0 is not a whole number of at least 1"),
    ("--mode=serve", "invalid choice: 'serve'"),
    ("--app_name=text_classify", "invalid choice: 'text_classify'"),
    ("--user_script=oss://x", "--user_script cannot be followed: scripts are not fetched and run."),
    ("--odps_config=x", "export them as TSV files"),
])
def test_wrong_usage_is_one_line_and_code_2(word: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["easynlp", word])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in printed and printed.count("\n") == 1


def test_the_help_names_every_flag_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    from danqing.easynlp_cli import latent, painter

    with pytest.raises(SystemExit):
        cli.main(["easynlp", "--help"])
    printed = capsys.readouterr().out
    assert all(f"--{flag}" in printed for flag in vars(parse([])) if flag not in _REFUSED)
    apps, _, rest = printed.partition("text2image_generation: ")[2].partition("latent_diffusion: ")
    assert all(key in apps for key in painter.PARAMETERS) and all(key in rest for key in latent.PARAMETERS)


def test_what_has_no_effect_is_taken_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    parse(["--predict_thread_num=1", "--sequence_length=288", "--label_name=x"])
    assert capsys.readouterr().err == (
        "danqing: --label_name has no effect here.\ndanqing: --predict_thread_num has no effect here.\n")


# ---- parameters

KNOWN = {"size": int, "random_crop": bool, "temperature": float, "pretrain_model_name_or_path": str}


def test_parameters_have_types() -> None:
    text = "\n  size=256\trandom_crop=False temperature=0.5\n pretrain_model_name_or_path='./a b=c' \n"
    assert parse_parameters(text, KNOWN) == {
        "size": 256, "random_crop": False, "temperature": 0.5, "pretrain_model_name_or_path": "./a b=c"}
    assert parse_parameters("random_crop=True", KNOWN) == {"random_crop": True}
    assert parse_parameters("", KNOWN) == {}


@pytest.mark.parametrize("text, sentence", [
    ("size", "'size' has no value; write size=VALUE"), ("sizes=3", "no 'sizes'; the nearest is 'size'"),
    ("size=big", "size is a whole number, not 'big'"), ("temperature=hot", "temperature is a number, not 'hot'"),
    ("random_crop=maybe", "random_crop is True or False, not 'maybe'"), ("size='3", "cannot be split into words"),
])
def test_parameters_that_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        parse_parameters(text, KNOWN)


@pytest.mark.parametrize("mode, does", [("train", "trains"), ("predict", "draws"), ("evaluate", "evaluates")])
def test_a_missing_gpu_is_told(mode: str, does: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from danqing.easynlp_cli.machines import tell_missing_gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tell_missing_gpu(parse([f"--mode={mode}"]))
    assert not capsys.readouterr().err
    tell_missing_gpu(parse([f"--mode={mode}", "--worker_gpu=1"]))
    assert capsys.readouterr().err == f"danqing: there is no GPU here; the CPU {does}.\n"


# ---- predicting, with a family that draws letters

class Letters:
    """A family whose picture is a function of text and row; it can be told to die before a row."""

    COLUMNS = ("idx", "text", "gen_imgbase64")

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at, self.batches, self.loaded = dies_at, [], 0

    def settings(self, args: argparse.Namespace, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return dict(parameters)

    def rows_per_record(self, parameters: Mapping[str, Any]) -> int:
        return int(parameters.get("each", 1))

    def inputs(self, parameters: Mapping[str, Any]) -> Sequence[str]:
        return [parameters["input"]] if "input" in parameters else []

    def checker(self, parameters: Mapping[str, Any]) -> Callable[[Mapping[str, str]], None]:
        def check(record: Mapping[str, str]) -> None:
            if record["text"] == parameters.get("refuses"):
                raise ValueError("that is no text")

        return check

    def predictor(self, args: argparse.Namespace, parameters: Mapping[str, Any]) -> Any:
        self.loaded += 1
        self.each = self.rows_per_record(parameters)
        return SimpleNamespace(columns=self.COLUMNS, rows=self._rows)

    def _rows(self, records: Sequence[dict[str, str]], first: int) -> list[dict[str, Any]]:
        self.batches.append((first, len(records)))
        if self.dies_at is not None and first + len(records) > self.dies_at:
            raise KeyboardInterrupt
        return [{"idx": record["idx"], "text": record["text"].upper(), "gen_imgbase64": [f"{record['text']}{row}"]}
                for row, record in enumerate((record for record in records for _ in range(self.each)), first * self.each)]


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., argparse.Namespace]:
    """Makes the flags of a prediction over seven rows."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "in.tsv").write_bytes("".join(f"{i}\ttext{i}\tcolour{i}\n" for i in range(1, 8)).encode())

    def make(*words: str) -> argparse.Namespace:
        return parse(["--mode=predict", f"--tables=ignored.tsv,{tmp_path}/in.tsv", f"--outputs={tmp_path}/out/o.tsv",
                      "--input_schema=idx:str:1,text:str:1,colour:str:1", "--first_sequence=text",
                      f"--checkpoint_dir={tmp_path}/model", "--micro_batch_size=3", *words])

    return make


def expected(numbers: Sequence[int] = range(1, 8)) -> str:
    return "".join(f"{i}\tTEXT{i}\t['text{i}{i - 1}']\n" for i in numbers)


def test_rows_of_the_original_format(order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    predict(Letters(), order(), {})
    assert (tmp_path / "out/o.tsv").read_text() == expected()
    assert os.listdir(tmp_path / "out") == ["o.tsv"]
    predict(Letters(), order("--output_schema=gen_imgbase64,idx", "--append_cols=colour,text", "--force"), {})
    assert (tmp_path / "out/o.tsv").read_text().splitlines()[6] == "['text76']\t7\tcolour7\ttext7"


def test_headers_and_tables_without_idx(order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_bytes(b"\xef\xbb\xbftext\r\none\r\ntwo\textra\r\n")
    predict(Letters(), order("--input_schema=text:str:1", "--skip_first_line"), {})
    assert (tmp_path / "out/o.tsv").read_text() == "1\tONE\t['one0']\n2\tTWO\t['two1']\n"


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("torn", ["", "8\tTEX", "\0" * 40])
def test_a_run_goes_on_after_the_last_complete_row(
        rows: int, torn: str, order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(Letters(dies_at=3), order(), {})
    partial = tmp_path / "out/o.tsv.partial"
    assert partial.read_text() == expected(range(1, 4)) and not (tmp_path / "out/o.tsv").exists()
    partial.write_text(expected(range(1, rows + 1)) + torn)
    family = Letters()
    predict(family, order("--resume"), {})
    assert (tmp_path / "out/o.tsv").read_text() == expected()
    assert os.listdir(tmp_path / "out") == ["o.tsv"]
    # batches begin where they would have begun, so that even rounding is the same
    assert [first for first, _ in family.batches] == [first for first in (0, 3, 6) if rows < min(first + 3, 7)]
    assert family.loaded == (rows < 7)


@pytest.mark.parametrize("rows", range(0, 22))
def test_several_rows_of_a_text_stay_with_it(
        rows: int, order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    whole = "".join(f"{i}\tTEXT{i}\t['text{i}{(i - 1) * 3 + k}']\tcolour{i}\n" for i in range(1, 8) for k in range(3))
    with pytest.raises(KeyboardInterrupt):
        predict(Letters(dies_at=3), order("--append_cols=colour"), {"each": 3})
    partial = tmp_path / "out/o.tsv.partial"
    assert partial.read_text() == "".join(whole.splitlines(keepends=True)[:9])
    partial.write_text("".join(whole.splitlines(keepends=True)[:rows]) + "3\tTEX")
    family = Letters()
    predict(family, order("--append_cols=colour", "--resume"), {"each": 3})
    assert (tmp_path / "out/o.tsv").read_text() == whole
    assert [first for first, _ in family.batches] == [first for first in (0, 3, 6) if rows < min(first + 3, 7) * 3]


def test_a_family_s_own_columns_are_read_and_judged_first(
        order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    family = Letters()
    with pytest.raises(RequestError, match="no column 'lex_id'; the schema names idx, text, colour"):
        predict(family, order(), {"input": "lex_id"})
    with pytest.raises(FormatError, match="Line 4 of .*: that is no text"):
        predict(family, order(), {"refuses": "text4"})
    assert not family.loaded and not (tmp_path / "out").exists()


def test_an_interrupted_run_is_neither_overwritten_nor_mixed(
        order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(Letters(dies_at=3), order(), {"n": 1})
    with pytest.raises(RequestError, match="holds 3 rows of an interrupted run: go on with --resume"):
        predict(Letters(), order(), {"n": 1})
    with pytest.raises(RequestError, match="begun with another n and random_seed: go on with the same"):
        predict(Letters(), order("--resume", "--random_seed=7"), {"n": 2})
    (tmp_path / "model/config.json").write_text("[]")
    with pytest.raises(RequestError, match="begun with another checkpoint"):
        predict(Letters(), order("--resume"), {"n": 1})
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "in.tsv").write_bytes((tmp_path / "in.tsv").read_bytes().replace(b"text5", b"text9"))
    with pytest.raises(RequestError, match="begun with another table"):
        predict(Letters(), order("--resume"), {"n": 1})
    assert (tmp_path / "out/o.tsv.partial").read_text() == expected(range(1, 4))
    (tmp_path / "out/o.tsv.partial.json").write_text("?")
    with pytest.raises(RequestError, match="does not say what the rows .* were made from"):
        predict(Letters(), order("--resume"), {"n": 1})
    predict(Letters(), order("--force"), {"n": 2})
    assert os.listdir(tmp_path / "out") == ["o.tsv"]
    assert (tmp_path / "out/o.tsv").read_text() == expected().replace("5\tTEXT5\t['text5", "5\tTEXT9\t['text9")
    # a larger batch changes no picture, so it may change on the way
    with pytest.raises(KeyboardInterrupt):
        predict(Letters(dies_at=3), order("--force"), {})
    predict(Letters(), order("--resume", "--micro_batch_size=2"), {})
    assert "text98" not in (text := (tmp_path / "out/o.tsv").read_text()) and text.count("\n") == 7


def test_a_complete_table_stays(
        order: Callable[..., argparse.Namespace], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(Letters(), order(), {})
    family = Letters()
    with pytest.raises(RequestError, match="o.tsv exists: name another output, or replace it with --force"):
        predict(family, order(), {})
    predict(family, order("--resume"), {})
    assert "o.tsv already has all of its 7 rows: nothing is left to draw." in capsys.readouterr().out
    (tmp_path / "out/o.tsv").write_text("another table\n")
    with pytest.raises(RequestError, match="o.tsv exists"):
        predict(family, order("--resume"), {})
    assert not family.loaded and (tmp_path / "out/o.tsv").read_text() == "another table\n"
    assert os.listdir(tmp_path / "out") == ["o.tsv"]
    predict(family, order("--force"), {})
    assert (tmp_path / "out/o.tsv").read_text() == expected()


def test_two_runs_do_not_write_one_table(order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    first = ResumableTable(tmp_path / "out/o.tsv", 3, {}, resume=False, force=False)
    with pytest.raises(RequestError, match="Another run is writing"):
        predict(Letters(), order("--force"), {})
    first.close()
    assert os.listdir(tmp_path / "out") == []
    predict(Letters(), order(), {})


def test_a_disk_that_fills_up_leaves_the_complete_rows(
        order: Callable[..., argparse.Namespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, rows = ResumableTable.write, []

    def full(table: ResumableTable, cells: list[str]) -> None:
        rows.append(cells)
        if len(rows) == 3:
            (tmp_path / "full").symlink_to("/dev/full")
            table._file.close()
            table._file = open(tmp_path / "full", "wb", buffering=0)
        write(table, cells)

    monkeypatch.setattr(ResumableTable, "write", full)
    with pytest.raises(RequestError, match="No space left on device; what is complete stays for --resume"):
        predict(Letters(), order(), {})
    monkeypatch.undo()
    assert (tmp_path / "out/o.tsv.partial").read_text() == expected([1, 2])
    predict(Letters(), order("--resume"), {})
    assert (tmp_path / "out/o.tsv").read_text() == expected()


def test_a_place_that_cannot_be_written_is_a_sentence(order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RequestError, match="cannot be written"):
        predict(Letters(), order(), {})


@pytest.mark.parametrize("words, sentence", [
    (["--output_schema=idx,image"], "no column 'image'; this model gives idx, text, gen_imgbase64"),
    (["--append_cols=size"], "no column 'size'; the schema names idx, text, colour"),
    (["--first_sequence=words"], "no column 'words'"),
    (["--tables="], "needs --tables"), (["--outputs="], "needs --outputs"),
    (["--input_schema="], "needs --input_schema"),
    (["--checkpoint_dir="], "needs --checkpoint_dir"),
    (["--tables=odps://p/t"], "odps://p/t is not read here: export the table"),
    (["--tables=oss://b/t.tsv"], "is not read here: copy the file"), (["--tables=nowhere.tsv"], "no table nowhere.tsv"),
    (["--outputs={here}"], "is a folder: --outputs names the table to write"),
    (["--outputs={here}/in.tsv"], "in.tsv, the table that is read: choose another name"),
    (["--outputs={here}/model/../in.tsv", "--force"], "the table that is read"),
    (["--input_schema=idx,text,colour,size"], "Line 1 of .*: 3 cells, where the schema names 4"),
])
def test_orders_that_cannot_be_carried_out(
        words: list[str], sentence: str, order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    family = Letters()
    with pytest.raises(DanqingError, match=sentence):
        predict(family, order(*(word.format(here=tmp_path) for word in words)), {})
    assert not family.loaded and sorted(os.listdir(tmp_path)) == ["in.tsv", "model"]


def test_a_bad_row_is_found_before_the_model_is_loaded(
        order: Callable[..., argparse.Namespace], tmp_path: Path) -> None:
    with open(tmp_path / "in.tsv", "ab") as file:
        file.write(b"8\t\xba\xec\tred\n")
    family = Letters()
    with pytest.raises(FormatError, match="Line 8 of .*it could be GBK"):
        predict(family, order(), {})
    assert not family.loaded


def test_a_fingerprint_sees_a_change_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(bytes(300_000))
    before = fingerprint(str(tmp_path)), fingerprint(str(file))
    (tmp_path / "events.log").write_bytes(b"a log that grows")
    os.utime(file, (0, 0))
    assert (fingerprint(str(tmp_path)), fingerprint(str(file))) == before
    file.write_bytes(bytes(299_999) + b"x")
    assert fingerprint(str(tmp_path)) != before[0] and fingerprint(str(file)) != before[1]
    assert fingerprint("alibaba-pai/pai-painter-base-zh") == "alibaba-pai/pai-painter-base-zh"


# ---- predicting, with the painter

def words(tables: Path, outputs: Path, checkpoint: Path, *more: str) -> list[str]:
    return ["easynlp", *ARTICLE.format(tables=tables, outputs=outputs, checkpoint=checkpoint).split(), *more]


def test_the_painter_gives_the_row_of_the_original(
        golden: Path, painter_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    from PIL import Image

    texts = json.loads((golden / "easynlp/painter_tiny/inputs/inputs.json").read_text("utf-8"))["texts"]
    [reference] = json.loads((golden / "easynlp/painter_tiny/expected/predictor_greedy.json").read_text("utf-8"))
    (tmp_path / "in.tsv").write_text(f"{reference['idx']}\t{texts[1]}\n", encoding="utf-8")
    line = words(tmp_path / "in.tsv", tmp_path / "out.tsv", painter_checkpoint,
                 "--user_defined_parameters=size=256 text_len=32 img_len=256 img_vocab_size=16384 top_k=1")
    assert cli.main(line) == 0
    printed = capfd.readouterr()
    assert "Wrote" in printed.out
    assert "img_vocab_size is 128 in this checkpoint; 16384 is not followed." in printed.err
    idx, text, pictures = (tmp_path / "out.tsv").read_text("utf-8").removesuffix("\n").split("\t")
    assert (idx, text) == (str(reference["idx"]), reference["text"])
    ours, theirs = (np.asarray(Image.open(io.BytesIO(base64.b64decode(each))), dtype=int)
                    for each in (ast.literal_eval(pictures)[0], reference["gen_imgbase64"][0]))
    assert ours.shape == theirs.shape and abs(ours - theirs).max() <= 1


def test_no_picture_cannot_be_drawn(painter_checkpoint: Path, golden: Path, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    line = words(golden / "easynlp/tsv/test.tsv", tmp_path / "out.tsv", painter_checkpoint)
    assert cli.main([*line, "--user_defined_parameters=max_generated_num=0"]) == 1
    assert "max_generated_num is at least 1, not 0." in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_every_picture_of_a_table_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from danqing.easynlp_cli.painter import PainterPredictor
    from danqing.pipelines import rows

    seeds = []
    monkeypatch.setattr(rows, "predictor_rows", lambda pipe, records, column, *, seed, max_generated_num, **more:
                        seeds.extend(range(seed, seed + len(records) * max_generated_num)) or [column])
    predictor = PainterPredictor(SimpleNamespace(), "words", 100, {"max_generated_num": 3})
    assert predictor.rows([{}, {}], 0) == predictor.rows([{}], 2) == ["words"]
    assert seeds == list(range(100, 109))


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
        golden: Path, painter_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = golden / "easynlp/tsv/test.tsv"
    options = ["--micro_batch_size=2", "--append_cols=idx", "--user_defined_parameters=max_generated_num=2"]
    assert cli.main(words(table, tmp_path / "whole.tsv", painter_checkpoint, *options)) == 0
    line = words(table, tmp_path / "killed.tsv", painter_checkpoint, *options)
    partial = tmp_path / "killed.tsv.partial"
    # the victim stops for good when its second batch is asked for, so that the kill comes at a known row
    victim = subprocess.Popen([sys.executable, "-c", (
        "import sys, time\nfrom danqing.easynlp_cli import painter\nfrom danqing import cli\n"
        "rows = painter.PainterPredictor.rows\n"
        "def slow(self, records, first):\n    time.sleep(600 if first else 0)\n    return rows(self, records, first)\n"
        "painter.PainterPredictor.rows = slow\ncli.main(sys.argv[1:])"), *line])
    try:
        deadline = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes().count(b"\n") < 2:
            assert victim.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        victim.kill()
    assert victim.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.tsv").exists()
    with open(partial, "ab") as file:
        file.write(b"3\t\xe4\xb8")
    assert cli.main([*line, "--resume"]) == 0
    assert "Going on after 2 of 6 rows." in capfd.readouterr().err
    assert (tmp_path / "killed.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    rows = [row.split("\t") for row in (tmp_path / "whole.tsv").read_text("utf-8").splitlines()]
    assert [row[0] for row in rows] == [row[3] for row in rows] == [str(i) for i in range(1, 7)]
    assert all(len(set(ast.literal_eval(row[2]))) == 2 for row in rows) and len({row[2] for row in rows}) == 6


def test_an_interrupted_command_says_how_to_go_on(
        order: Callable[..., argparse.Namespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    from danqing.commands import easynlp

    family = Letters(dies_at=3)
    family.PARAMETERS = {}      # type: ignore[attr-defined]
    monkeypatch.setattr(easynlp, "import_module", lambda name: family)
    monkeypatch.setattr(easynlp, "parse", lambda argv: order())
    assert cli.main(["easynlp"]) == 130
    assert "--resume goes on after the last row" in capsys.readouterr().err


# ---- training and evaluating

def train_words(golden: Path, target: Path, parameters: str, *more: str, tables: str | None = None) -> list[str]:
    table = golden / "easynlp/tsv/train.tsv"
    return [
        "easynlp", "--mode=train", "--worker_gpu=0", f"--tables={tables or table}",
        "--input_schema=idx:str:1,text:str:1,imgbase64:str:1", "--first_sequence=text", "--second_sequence=imgbase64",
        f"--checkpoint_dir={target}", "--learning_rate=4e-3", "--epoch_num=1", "--random_seed=42", "--logging_steps=1",
        "--save_checkpoint_steps=2", "--sequence_length=288", "--micro_batch_size=3",
        "--app_name=text2image_generation", f"--user_defined_parameters={parameters}", *more]


def losses(target: Path, kind: str) -> list[float]:
    journal = target.with_name(f"{target.name}.training") / "log.jsonl"
    return [line["loss"] for line in map(json.loads, journal.read_text().splitlines()) if line["kind"] == kind]


@pytest.mark.slow
def test_fine_tune_evaluate_predict(
        golden: Path, painter_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, target = golden / "easynlp/tsv/train.tsv", tmp_path / "tuned"
    parameters = (f"pretrain_model_name_or_path={painter_checkpoint}\n"
                  "  size=256\n  text_len=32\n  img_len=256\n  img_vocab_size=128\n")
    assert cli.main(train_words(golden, target, parameters, tables=f"{table},{table}")) == 0
    assert {"config.json", "pytorch_model.bin", "vocab.txt"} <= set(os.listdir(target))
    assert json.loads((target / "config.json").read_text())["model_type"] == "artist"
    assert f"Wrote {target}" in capsys.readouterr().out

    evaluated = []
    two_columns = golden / "easynlp/tsv/train_two_columns.tsv"
    for model, rows in ((painter_checkpoint, table), (target, table), (target, two_columns)):
        assert cli.main(["easynlp", "--mode=evaluate", "--worker_gpu=0", f"--tables=x,{rows}",
                         f"--checkpoint_dir={model}", "--micro_batch_size=4"]) == 0
        evaluated.append(json.loads(capsys.readouterr().out))
    assert [each["rows"] for each in evaluated] == [6, 6, 6]
    assert evaluated[1]["loss"] < evaluated[0]["loss"] - 1 and evaluated[1] == evaluated[2]
    assert losses(target, "validation") == [pytest.approx(evaluated[1]["loss"], rel=1e-5)]

    assert cli.main(train_words(golden, target, parameters)) == 1
    assert "replace it with --force" in capsys.readouterr().err
    again = train_words(golden, target, parameters, "--resume", tables=f"{table},{table}")
    assert cli.main([*again, "--learning_rate=0.5", "--micro_batch_size=1", "--epoch_num=4"]) == 1
    assert "begun with another batch size, learning rate, warmup and number of steps:" in capsys.readouterr().err
    assert cli.main(again) == 0
    assert "already has all of its 2 steps: nothing is left to train." in capsys.readouterr().out
    first = losses(target, "train")
    assert cli.main(train_words(golden, target, parameters, "--force", "--epoch_num=0.5", "--warmup_proportion=0")) == 0
    assert len(first) == 2 and len(losses(target, "train")) == 1
    (tmp_path / "in.tsv").write_text("7\t红色的圆形\n", encoding="utf-8")
    assert cli.main(words(tmp_path / "in.tsv", tmp_path / "out.tsv", target)) == 0
    assert (tmp_path / "out.tsv").read_text("utf-8").startswith("7\t红色的圆形\t['iVBOR")


@pytest.mark.slow
def test_training_from_scratch_reads_the_originals_vqgan_file(
        golden: Path, painter_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from danqing_pack import pickles

    state = pickles.load(painter_checkpoint / "pytorch_model.bin")
    stage = {name.removeprefix("first_stage_model."): value for name, value in state.items()
             if name.startswith("first_stage_model.")}
    stage["loss.discriminator.weight"] = stage["quant_conv.bias"]
    pickles.dump(tmp_path / "vqgan_f16.bin", stage)
    parameters = f"vqgan_ckpt_path={tmp_path}/vqgan_f16.bin n_layer=1 n_head=2 n_embd=16 size=256"
    assert cli.main(train_words(golden, tmp_path / "new", parameters)) == 1
    assert "vocab_path is missing" in capsys.readouterr().err
    parameters += f" vocab_path={painter_checkpoint}/vocab.txt"
    assert cli.main(train_words(golden, tmp_path / "new", parameters)) == 0
    assert cli.main(train_words(golden, tmp_path / "new", parameters, "--resume")) == 0     # what it converts is the same again
    written = pickles.load(tmp_path / "new/pytorch_model.bin")
    assert written["transformer.tok_emb.weight"].shape == (922, 16)
    assert all((written[f"first_stage_model.{name}"].array() == value.array()).all()
               for name, value in stage.items() if not name.startswith("loss."))


@pytest.mark.parametrize("more, sentence", [
    (["--tables=a,b,c"], "names 3 tables"), (["--optimizer_type=SGD"], "SGD is not carried out"),
    (["--epoch_num=0"], "--epoch_num must be above 0, not 0."), (["--epoch_num=-1"], "must be above 0, not -1."),
    (["--learning_rate=0"], "The learning rate must be above 0"),
    (["--warmup_proportion=2"], "a part from 0 to 1"), (["--tables=oss://a/b"], "is not read here"),
    (["--user_defined_parameters=size=3"], "vqgan_ckpt_path is missing"),
    (["--second_sequence=picture"], "no column 'picture'"),
])
def test_training_that_cannot_be(
        more: list[str], sentence: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(train_words(golden, tmp_path / "new", "", *more)) == 1
    assert sentence in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
