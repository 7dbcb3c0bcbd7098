"""The command line as a user meets it: one line of output, one sentence of error, the right exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from danqing import cli
from danqing_pack.checking import check

VERBS = sorted(cli.VERBS)


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "danqing", *map(str, words)], capture_output=True, text=True, check=False,
        env={**os.environ, **environment})


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "danqing", "--help"], capture_output=True, text=True, check=True)
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "numpy", "diffusers", "transformers", "modelscope", "danqing_pack.conversion"} & imported


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert f"danqing {verb}" in capsys.readouterr().out


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"danqing {version('danqing')}\n"


@pytest.mark.parametrize("words", [["nonsense"], ["convert"], ["detect", "a", "--nonsense"], ["detect", "a", "--js"]])
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    assert run(*words).returncode == 2


def test_detect_says_what_lies_there(painter_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", str(painter_checkpoint)]) == 0
    line = capsys.readouterr().out
    assert line.startswith("painter, easynlp layout, ") and "32 text + 256 image tokens" in line
    assert cli.main(["detect", str(painter_checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dimensions"]["n_unmasked"] == 0


def test_the_way_of_the_readme(painter_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modern, back, bundle, again = (str(tmp_path / name) for name in ("modern", "back", "model.tar.gz", "again"))
    for words in (
        ["convert", str(painter_checkpoint), modern, "--to", "diffusers"],
        ["check", modern],
        ["convert", modern, back, "--to", "easynlp"],
        ["check", back],
        ["pack", modern, bundle],
        ["check", bundle],
        ["unpack", bundle, again],
        ["check", again],
        ["detect", bundle],
    ):
        assert cli.main(words) == 0, capsys.readouterr()
    assert "Wrote" in capsys.readouterr().out


def test_a_problem_is_one_sentence_on_stderr_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("danqing: ")


def test_check_lists_every_problem_at_once(painter_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (painter_copy / "vocab.txt").unlink()
    (painter_copy / "configuration.json").write_text('{"plugins": ["x"], "allow_remote": true}')
    assert cli.main(["check", str(painter_copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    for word in ("vocab.txt", "plugins", "allow_remote", "no framework", "no task", "no pipeline"):
        assert any(word in line for line in lines), (word, lines)


def test_weights_that_cannot_be_opened_hide_no_other_problem(painter_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(painter_folder, tmp_path / "folder")
    (folder / "vqvae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    (folder / "configuration.json").write_text("{}")
    (folder / "tokenizer" / "vocab.txt").write_text("changed")
    problems = check(folder)
    assert "diffusion_pytorch_model.safetensors" in problems[0]
    assert any("configuration.json has no task" in each for each in problems)
    assert any(each.startswith("tokenizer/vocab.txt is not the file") for each in problems)


def test_a_vocabulary_of_another_checkpoint_is_a_problem(painter_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (painter_copy / "vocab.txt").open("a") as file:
        file.write("\n".join(map(str, range(100_000, 101_000))))
    assert cli.main(["check", str(painter_copy)]) == 1
    assert "another checkpoint" in capsys.readouterr().out


def test_init_makes_a_folder_ready_once(painter_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", str(painter_copy)]) == 0
    assert json.loads((painter_copy / "configuration.json").read_bytes())["pipeline"] == {"type": "danqing"}
    assert cli.main(["init", str(painter_copy)]) == 1
    assert cli.main(["init", str(painter_copy), "--force", "--task", "text2image_generation"]) == 0
    assert json.loads((painter_copy / "configuration.json").read_bytes())["task"] == "text2image_generation"
    assert cli.main(["check", str(painter_copy)]) == 0


def test_init_of_a_converted_folder_keeps_it_whole(painter_checkpoint: Path, tmp_path: Path) -> None:
    modern, back = str(tmp_path / "modern"), str(tmp_path / "back")
    cli.main(["convert", str(painter_checkpoint), modern, "--to", "diffusers"])
    cli.main(["convert", modern, back, "--to", "easynlp"])
    assert cli.main(["init", back]) == 0
    assert cli.main(["check", back]) == 0


def test_families_names_layouts_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["families"]) == 0
    out = capsys.readouterr().out
    assert "painter" in out and "easynlp, diffusers" in out and "text2image_generation" in out


def test_output_into_a_closed_pipe_is_no_traceback(painter_checkpoint: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m danqing detect {painter_checkpoint} --json | true", shell=True, capture_output=True, text=True,
        check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["generate", "猫", "-m"], ["serve"]])
def test_a_broken_folder_is_refused_before_anything_heavy_begins(painter_copy: Path, words: list[str]) -> None:
    (painter_copy / "vocab.txt").unlink()
    done = run(*words, painter_copy, PYTHONPROFILEIMPORTTIME="1")
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1 and len(said) == 1 and said[0].startswith(f"danqing: {painter_copy}: The folder has no vocab")
    assert not {"torch", "diffusers"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_a_problem_inside_a_bundle_is_told_of_the_bundle(painter_copy: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "model.tar.gz"
    (painter_copy / "config.json").write_text("[]")
    with tarfile.open(bundle, "w:gz") as archive:
        archive.add(painter_copy, ".")
    said = run("detect", bundle).stderr
    assert said == f"danqing: config.json in {bundle} holds no JSON object; restore it from its source.\n"


def test_a_prompt_must_be_text(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "danqing", "generate", b"\xff\xfe", "-o", tmp_path / "out"], capture_output=True,
                          check=False)
    assert done.returncode == 1 and b"is no UTF-8" in done.stderr and not (tmp_path / "out").exists()


def test_a_painter_says_what_it_does_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "红色的圆形" * 20
    assert cli.main(["generate", prompt, "-o", str(tmp_path), "--seed", "1"]) == 0
    # The model inside reads 32 tokens, of this prompt one for each character.
    said = capsys.readouterr().err
    assert "longer than the 32 tokens" in said and said.endswith(f"left out: “{prompt[32:72]}…”, 68 characters.\n")


def test_a_demo_whose_reader_goes_away_ends_in_silence(tmp_path: Path) -> None:
    done = subprocess.run(
        f'"{sys.executable}" -m danqing demo -o "{tmp_path / "out"}" | true; echo "${{PIPESTATUS[0]}}"', shell=True,
        executable="/bin/bash", capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("words", [["--steps", "20"], ["--upscale"], ["--image", "nope.png"], ["--device", "gpu"],
                                   ["--dtype", "int8"], ["--lora", "x.bin"]])
def test_options_that_cannot_be_are_refused_without_torch(words: list[str], tmp_path: Path) -> None:
    done = run("generate", "圆", "-o", tmp_path / "out", *words, PYTHONPROFILEIMPORTTIME="1")
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1 and len(said) == 1 and not (tmp_path / "out").exists()
    assert not {"torch", "diffusers"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_an_empty_prompt_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "圆", " ", "-o", str(tmp_path / "out")]) == 1
    assert "A prompt is empty" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interrupted_drawing_keeps_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from danqing.orders import SharedPipeline

    draw, calls = SharedPipeline._batch, []

    def interrupted(self: SharedPipeline, orders: list[object]) -> object:
        calls.append(len(orders))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, orders)  # type: ignore[arg-type]

    monkeypatch.setattr(SharedPipeline, "_batch", interrupted)
    words = ["红色的圆形", "蓝色的方形", "--num-images", "3", "--batch-size", "2", "--seed", "7", "-o", str(tmp_path)]
    assert cli.main(["generate", *words]) == 130
    assert calls == [2, 2, 2] and f"4 of 6 pictures are finished, in {tmp_path}." in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "0001-红色的圆形-7.png", "0002-红色的圆形-8.png", "0003-红色的圆形-9.png", "0004-蓝色的方形-10.png"]


def test_what_may_not_be_read_is_a_sentence(
    painter_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    assert cli.main(["detect", str(painter_copy)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"danqing: {painter_copy}/") and "cannot be opened (Permission denied); change" in said
