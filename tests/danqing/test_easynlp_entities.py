"""The knowledge variant behind the command lines of its article: columns, vectors, prediction, training, evaluation."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from danqing import cli, load
from danqing.train.entities import EntityVectors, NoSpans, Span, spans_of
from danqing_pack.errors import FormatError
from PIL import Image

SCHEMA = "idx:str:1,text:str:1,lex_id:str:1,pos_s:str:1,pos_e:str:1,token_len:str:1,"
"""As the article writes it, with the comma at its end."""
ROWS = [("1", "红色的圆形", "3 5", "0 1 2 3 4 0 3", "0 1 2 3 4 1 4", "5"),
        ("2", "蓝色的方形", "", "0 1 2 3 4", "0 1 2 3 4", "5"),
        ("3", "黄色的星形", "6 2 4", "0 1 2 3 4 0 1 3", "0 1 2 3 4 1 1 4", "5")]
WIDTH = 100


def cells(row: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(("idx", "text", "lex_id", "pos_s", "pos_e", "token_len"), row, strict=True))


# ---- reading

def test_the_four_columns() -> None:
    assert spans_of(cells(ROWS[0])) == [Span(3, 0, 1), Span(5, 3, 4)]
    assert spans_of(cells(ROWS[1])) == []


@pytest.mark.parametrize("change, reason", [
    ({"lex_id": "3 x"}, "lex_id holds whole numbers separated by spaces, not '3 x'"),
    ({"lex_id": "3 -5"}, "lex_id holds whole numbers"), ({"token_len": ""}, "token_len is one number, not ''"),
    ({"pos_s": "0 1 2 3 4 0"}, "pos_s has 6 numbers, where 5 tokens and 2 entities need one each"),
    ({"pos_e": "0 1 2 3 4 0 1 2"}, "pos_e has 8 numbers"), ({"token_len": "6"}, "where 6 tokens and 2 entities"),
])
def test_columns_that_name_nothing(change: dict[str, str], reason: str) -> None:
    with pytest.raises(NoSpans, match=reason):
        spans_of({**cells(ROWS[0]), **change})


@pytest.fixture(scope="module")
def matrix() -> torch.Tensor:
    return torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(5)) * 3


@pytest.fixture
def vectors(matrix: torch.Tensor, tmp_path: Path) -> Path:
    torch.save(matrix, tmp_path / "entity2vec.pt")
    return tmp_path / "entity2vec.pt"


def words_of(row: tuple[str, ...], count: int = 10, length: int = 32) -> torch.Tensor:
    """The original's matrix, built as its data set built it."""
    found = np.zeros([count, length], dtype=int)
    if row[2]:
        tokens = int(row[5])
        starts, ends = ([int(x) for x in cell.split(" ")][tokens:tokens + count] for cell in row[3:5])
        for place, entity in enumerate(row[2].split(" ")[:count]):
            found[place, starts[place]:ends[place] + 1] = int(entity)
    return torch.from_numpy(found)


@pytest.mark.parametrize("count", [10, 2])
def test_the_vectors_under_each_token_are_the_original_s(count: int, matrix: torch.Tensor, vectors: Path) -> None:
    found = EntityVectors(vectors, count).knowledge([spans_of(cells(row)) for row in ROWS], 32)
    wanted = torch.stack([matrix[words_of(row, count)] for row in ROWS])
    assert torch.equal(found["entity_embeddings"][found["words"]], wanted)
    assert len(found["entity_embeddings"]) < len(matrix)


def test_texts_that_are_longer_than_the_model_reads(vectors: Path) -> None:
    found = EntityVectors(vectors).knowledge([[Span(3, 30, 40), Span(4, 33, 35)]], 32)
    named = found["entity_embeddings"][found["words"]][0]
    assert torch.equal(named[1], named[2])      # beyond the end: as if it were not there
    assert not torch.equal(named[0, 30], named[1, 30]) and torch.equal(named[0, 29], named[1, 29])


def test_files_that_hold_no_vectors(tmp_path: Path, vectors: Path) -> None:
    with pytest.raises(FormatError, match="There is no file of entity vectors"):
        EntityVectors(tmp_path / "none.pt")
    torch.save({"a": torch.zeros(3, 3)}, tmp_path / "tree.pt")
    with pytest.raises(FormatError, match="holds no matrix of entity vectors"):
        EntityVectors(tmp_path / "tree.pt")
    with pytest.raises(NoSpans, match="there is no entity 8 in .*, which holds 8"):
        EntityVectors(vectors).check([Span(8, 0, 0)])


# ---- the command lines

@pytest.fixture
def knowing(painter_checkpoint: Path, tmp_path: Path) -> Path:
    """The reference painter with a layer for entities that speaks up."""
    folder = Path(shutil.copytree(painter_checkpoint, tmp_path / "knowing"))
    state = torch.load(folder / "pytorch_model.bin")
    generator = torch.Generator().manual_seed(1)
    state["transformer.ent_emb.weight"] = torch.randn(32, WIDTH, generator=generator)
    state["transformer.ent_emb.bias"] = torch.randn(32, generator=generator)
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "in.tsv").write_text("".join("\t".join(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path / "in.tsv"


def words(table: Path, model: Path, parameters: str, *more: str) -> list[str]:
    """The predict command of the article, but for the paths."""
    return ["easynlp", "--mode=predict", "--worker_gpu=0", f"--tables={table}", f"--input_schema={SCHEMA}",
            "--first_sequence=text", f"--outputs={table.parent}/out.tsv", "--output_schema=idx,text,gen_imgbase64",
            f"--checkpoint_dir={model}", "--sequence_length=288", "--micro_batch_size=8",
            "--app_name=text2image_generation", f"--user_defined_parameters={parameters}", *more]


def pictures(table: Path) -> list[np.ndarray]:
    rows = [line.split("\t") for line in (table.parent / "out.tsv").read_text("utf-8").splitlines()]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(ast.literal_eval(row[2])[0])))) for row in rows]


def test_predicting_with_entities(matrix: torch.Tensor, vectors: Path, knowing: Path, table: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    article = f"\n  entity_emb_path={vectors}\n  size=256\n  text_len=32\n  img_len=256\n  img_vocab_size=128\n  top_k=1\n"
    assert cli.main(words(table, knowing, article, "--micro_batch_size=2")) == 0
    pipe: Any = load(knowing, device="cpu")
    known = torch.stack([words_of(row) for row in ROWS])
    wanted = pipe([row[1] for row in ROWS], top_k=1, words=known, entity_embeddings=matrix).images
    found = pictures(table)
    assert all(np.array_equal(np.asarray(ours), theirs) for ours, theirs in zip(wanted, found, strict=True))
    assert "knows entities" not in capsys.readouterr().err

    assert cli.main(words(table, knowing, "top_k=1", "--force")) == 0
    assert "knows entities, but no entity_emb_path" in capsys.readouterr().err
    assert not np.array_equal(pictures(table)[0], found[0])


@pytest.mark.parametrize("parameters, sentence", [
    ("entity_emb_path={path}/none.pt", "There is no file of entity vectors"),
    ("entity_num=3", "entity_num counts entities of entity_emb_path, which is missing"),
    ("entity_emb_path={path}/entity2vec.pt entity_num=0", "entity_num is at least 1, not 0"),
    ("entity_emb_path={path}/narrow.pt", "The vectors in .*narrow.pt have the width 3, and .* reads 100"),
])
def test_parameters_that_cannot_be(parameters: str, sentence: str, vectors: Path, knowing: Path, table: Path,
                                   tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.zeros(8, 3), tmp_path / "narrow.pt")
    assert cli.main(words(table, knowing, parameters.format(path=tmp_path))) == 1
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "out.tsv").exists()


def test_rows_that_cannot_be_are_found_first(vectors: Path, knowing: Path, painter_checkpoint: Path, table: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    parameters = f"entity_emb_path={vectors}"
    assert cli.main(words(table, painter_checkpoint, parameters)) == 1
    assert "knows no entities (it has no ent_emb)" in capsys.readouterr().err
    assert cli.main(words(table, knowing, parameters, "--input_schema=idx,text")) == 1
    assert "no column 'lex_id'" in capsys.readouterr().err
    table.write_text(table.read_text("utf-8").replace("6 2 4", "6 2 9"), encoding="utf-8")
    assert cli.main(words(table, Path("/nowhere"), parameters)) == 1
    assert "Line 3 of" in (printed := capsys.readouterr().err) and "there is no entity 9" in printed


@pytest.mark.slow
def test_training_and_evaluating_with_entities(matrix: torch.Tensor, vectors: Path, knowing: Path, golden: Path,
                                               tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(golden / "easynlp/tsv/train.tsv", encoding="utf-8") as file:
        images = [line.rstrip("\n").split("\t")[2] for line in file]
    rows = [(*row, image) for row, image in zip(ROWS, images, strict=False)]
    table = tmp_path / "train.tsv"
    table.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    common = ["--worker_gpu=0", f"--tables={table}", f"--input_schema={SCHEMA}imgbase64:str:1,", "--micro_batch_size=2"]
    evaluate = ["easynlp", "--mode=evaluate", *common]

    def loss(model: Path, parameters: str) -> float:
        assert cli.main([*evaluate, f"--checkpoint_dir={model}", f"--user_defined_parameters={parameters}"]) == 0
        return float(json.loads(capsys.readouterr().out)["loss"])

    known = loss(knowing, f"entity_emb_path={vectors}")
    assert known != pytest.approx(loss(knowing, ""), abs=1e-4)
    # the same number from the network itself
    pipe: Any = load(knowing, device="cpu")
    from danqing.train.data import as_input, encode, picture_of
    from danqing_pack.examples import open_examples

    examples = open_examples(table, f"{SCHEMA}imgbase64:str:1,")
    codes = encode(pipe.vqvae, torch.stack([as_input(picture_of(each.image_bytes, 256, "")) for each in examples]))
    ids = torch.cat([pipe.encode_prompt([row[1] for row in ROWS]), codes[:, :-1]], dim=1)
    with torch.no_grad():
        wanted = pipe.transformer(ids, torch.stack([words_of(row) for row in ROWS]), matrix, labels=codes).loss
    assert known == pytest.approx(float(wanted), abs=1e-5)

    train = ["easynlp", "--mode=train", *common, f"--checkpoint_dir={tmp_path}/tuned", "--learning_rate=1e-2",
             "--epoch_num=4", f"--user_defined_parameters=pretrain_model_name_or_path={knowing} entity_emb_path={vectors}"]
    assert cli.main(train) == 0
    capsys.readouterr()
    assert loss(tmp_path / "tuned", f"entity_emb_path={vectors}") < known - 0.5
    before, after = (torch.load(folder / "pytorch_model.bin") for folder in (knowing, tmp_path / "tuned"))
    name = "transformer.ent_emb.weight"
    assert after[name].shape == (32, WIDTH) and not torch.equal(before[name], after[name])
