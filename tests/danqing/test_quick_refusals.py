"""What cannot be is refused before the seconds that importing torch takes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from danqing.commands import train

SCRIPT = """
import contextlib, io, json, sys
from danqing import cli
found = []
for line in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = cli.main(line)
    found.append([code, said.getvalue(), sorted({"torch", "diffusers", "transformers"} & sys.modules.keys())])
json.dump(found, sys.stdout)
"""


def test_what_needs_no_torch(golden: Path, painter_checkpoint: Path, tmp_path: Path) -> None:
    rows, latent = golden / "easynlp/tsv/train.tsv", golden / "easynlp/latent_diffusion_tiny/checkpoint"
    (tmp_path / "old/checkpoints/step-00000001").mkdir(parents=True)
    (tmp_path / "there.tsv").write_text("1\ta\n")
    (tmp_path / "header.tsv").write_text("idx\ttext\timgbase64\n1\ta\tb\n")
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "vocab.txt").write_text("a\n")
    train = ["train", "painter", f"--data={rows}", f"--model={painter_checkpoint}", f"--output={tmp_path}/out"]
    easy = ["easynlp", f"--tables={rows}", "--input_schema=idx:str:1,text:str:1,imgbase64:str:1",
            f"--checkpoint_dir={tmp_path}/new"]
    from_painter = f"--user_defined_parameters=pretrain_model_name_or_path={painter_checkpoint}"
    draw = ["easynlp", "--mode=predict", f"--tables={rows}", "--input_schema=idx,text,imgbase64", f"--outputs={tmp_path}/o.tsv",
            f"--checkpoint_dir={painter_checkpoint}"]
    cases = [
        ([*train, "--data=none.tsv"], "There is no table none.tsv."),
        ([*train, f"--data={tmp_path}/vocab.txt"], "has 1 cell;"),
        ([*train, f"--model={tmp_path}/none"], "There is nothing at"),
        ([*train, f"--model={latent}"], "is no painter"),
        (["train", "latent", *train[2:]], "is no latent diffusion of EasyNLP"),
        (["train", "vqgan", *train[2:], f"--model={latent}"], "holds no VQGAN"),
        ([*train, f"--model={tmp_path}/model.json"], "needs --first-stage"),
        ([*train, f"--model={tmp_path}/model.json", f"--first-stage={painter_checkpoint}", "--vocab=none.txt"],
         "There is no vocabulary none.txt."),
        ([*train, f"--output={tmp_path}/old"], "already holds a training run"),
        ([*train, "--output=/proc/nowhere"], "The run cannot be written to /proc/nowhere"),
        ([*train, "--choose=best"], "--choose best needs --validation"), ([*train, "--sample-every=2"], "needs --prompts"),
        (["easynlp"], "--mode=train needs --tables."), (["easynlp", "--mode=evaluate"], "needs --tables."),
        ([*easy, f"--checkpoint_dir={tmp_path}/old"], "exists: name another --checkpoint_dir"),
        ([*easy, "--optimizer_type=SGD"], "SGD is not carried out"), ([*easy, "--learning_rate=0"], "must be above 0"),
        ([*easy, "--tables=none.tsv"], "There is no table none.tsv."),
        ([*easy, "--app_name=latent_diffusion", "--user_defined_parameters=pretrain_model_name_or_path=./none"], "nothing at"),
        ([*easy, "--user_defined_parameters=pretrain_model_name_or_path=./none"], "There is nothing at"),
        ([*easy, "--app_name=latent_diffusion", from_painter], "--app_name=text2image_generation draws with it"),
        ([*draw, f"--checkpoint_dir={latent}"], "is no painter: --app_name=latent_diffusion draws with it."),
        ([*draw, f"--outputs={tmp_path}/there.tsv"], "there.tsv exists: name another output"),
        ([*draw, "--app_name=latent_diffusion", f"--checkpoint_dir={latent}", "--user_defined_parameters=H=63"],
         "H 63 is no multiple of 8"),
        ([*draw, "--app_name=latent_diffusion", "--user_defined_parameters=max_generated_num=2"],
         "'max_generated_num' belongs to --app_name=text2image_generation; the key here is 'n_samples'."),
        ([*draw, "--user_defined_parameters=scale=2"], "'scale' belongs to --app_name=latent_diffusion."),
        ([*easy, f"--tables={tmp_path}/header.tsv", from_painter], "it looks like a header: --skip_first_line."),
        ([*easy, "--mode=evaluate", f"--checkpoint_dir={latent}"], "is no painter"),
    ]
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=json.dumps([line for line, _ in cases]), cwd=tmp_path,
                          capture_output=True, text=True, check=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    for (line, sentence), (code, said, heavy) in zip(cases, json.loads(done.stdout), strict=True):
        assert (code, heavy) == (1, []) and sentence in said, (line, said)
    assert before == ["header.tsv", "model.json", "old", "there.tsv", "vocab.txt"]


@pytest.mark.parametrize("recipe", ["painter", "latent", "vqgan"])
def test_every_option_is_explained_with_its_default(recipe: str) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    [recipes] = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in recipes[recipe]._actions:
        assert action.help, action.option_strings
        if not action.required and action.default not in (None, False, [], argparse.SUPPRESS):
            values = action.default if isinstance(action.default, tuple) else (action.default,)
            told = action.help.rpartition("default: ")[2].rstrip(")").split()
            assert [type(value)(word) for value, word in zip(values, told, strict=True)] == list(values), action.option_strings
