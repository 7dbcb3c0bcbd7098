"""The apps for a Space and a Studio: folders that a host takes, and code that runs against a stand-in of Gradio."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from danqing_pack import apps, check, front_matter
from danqing_pack.errors import FormatError, RequestError, UnsafeError

STAND_IN = '''
"""As much of gradio as the app needs: widgets that remember what they were made with."""
events, widgets = [], []


class Error(Exception):
    pass


class Widget:
    def __init__(self, *args, **keywords):
        self.args, self.keywords = args, keywords
        widgets.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def click(self, function, inputs, outputs):
        assert all(isinstance(each, Widget) for each in [*inputs, *outputs])
        events.append((function, inputs, outputs))

    submit = click


Blocks = Row = Markdown = Textbox = Slider = Number = Button = Gallery = Examples = Widget
'''
RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import app, gradio, numpy as np
function, inputs, outputs = gradio.events[0]
values = [each.keywords.get("value") for each in inputs]
values[inputs.index(app.count)], values[inputs.index(app.seed)], values[inputs.index(app.steps)] = 2, 7, 2
images, seed = function(*values)
found = {"sizes": [image.size for image in images], "seed": seed, "widgets": len(gradio.widgets), "denoises": app.denoises}
found["same"] = bool(np.array_equal(np.asarray(images[0]), np.asarray(images[1])))
again, _ = function(*[1 if each is app.count else 8 if each is app.seed else value for each, value in zip(inputs, values)])
found["second alone"] = int(np.abs(np.asarray(again[0]).astype(int) - np.asarray(images[1])).max())
try:
    function("  ", *values[1:])
except gradio.Error as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""


def front(folder: Path) -> dict[str, Any]:
    return front_matter.values(front_matter.split((folder / "README.md").read_text(encoding="utf-8"))[0] or "")


def test_a_space_brings_its_model_along(painter: Path, tmp_path: Path) -> None:
    (painter / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n", encoding="utf-8")
    done = apps.write_app("hf-space", painter, tmp_path / "space")
    assert {"app.py", "requirements.txt", "README.md", "model/model_index.json", "model/danqing.json"} <= done.files.keys()
    assert check(tmp_path / "space" / "model") == []
    found = front(tmp_path / "space")
    assert found["sdk"] == "gradio" and found["app_file"] == "app.py" and found["license"] == "cc-by-4.0" and "models" not in found
    assert str(found["sdk_version"]) == apps.GRADIO and found["title"] == "painter"
    assert (tmp_path / "space" / "requirements.txt").read_text().startswith("danqing")
    assert "Space" in done.describe()


def test_an_app_brings_no_file_from_elsewhere(painter: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((painter / "tokenizer" / "vocab.txt").read_bytes())
    (painter / "tokenizer" / "vocab.txt").unlink()
    (painter / "tokenizer" / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeError, match="leads out of the checkpoint"):
        apps.write_app("hf-space", painter, tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_a_studio_fetches_its_model(painter: Path, tmp_path: Path) -> None:
    apps.write_app("ms-studio", painter, tmp_path / "studio", repository="ms:me/painter", title='A "title"\n',
                   requirement="https://example.org/danqing.whl")
    assert not (tmp_path / "studio" / "model").exists()
    found = front(tmp_path / "studio")
    assert found["license"] == "Apache License 2.0" and found["models"] == ["me/painter"]
    assert found["deployspec"] == {"entry_file": "app.py"} and found["domain"] == ["multi-modal"]
    lines = (tmp_path / "studio" / "requirements.txt").read_text().splitlines()
    assert lines == ["https://example.org/danqing.whl", f"gradio=={apps.GRADIO}"]
    assert constants(tmp_path / "studio" / "app.py") == {"MODEL": "ms:me/painter", "TITLE": 'A "title"\n', "MOST": 4,
                                                         "PROMPTS": ["宽松T恤", "山水画，远山和湖"]}


def constants(app: Path) -> dict[str, Any]:
    """The constants at the top of an app."""
    tree = ast.parse(app.read_text(encoding="utf-8"))
    return {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()}


def test_a_repository_needs_no_folder_here(tmp_path: Path) -> None:
    apps.write_app("hf-space", "hf:org/some-name", tmp_path / "space")
    assert constants(tmp_path / "space" / "app.py")["MODEL"] == "hf:org/some-name"
    assert front(tmp_path / "space")["models"] == ["org/some-name"] and front(tmp_path / "space")["title"] == "some-name"


@pytest.mark.parametrize(("words", "options", "error"), [
    ("there-is-nothing", {}, FormatError), ("hf:org/name", {"kind": "gitee"}, RequestError),
    ("hf:org/name", {"repository": "name"}, RequestError),
])
def test_what_cannot_be_written_leaves_nothing(words: str, options: dict[str, str], error: type[Exception], tmp_path: Path) -> None:
    kind = options.pop("kind", "hf-space")
    with pytest.raises(error):
        apps.write_app(kind, words, tmp_path / "app", **options)
    assert not list(tmp_path.iterdir())


def test_an_app_that_is_there_is_kept(tmp_path: Path) -> None:
    apps.write_app("hf-space", "hf:org/name", tmp_path / "app")
    with pytest.raises(RequestError, match="--force"):
        apps.write_app("hf-space", "hf:org/other", tmp_path / "app")
    apps.write_app("hf-space", "hf:org/other", tmp_path / "app", force=True)
    assert "org/other" in (tmp_path / "app" / "app.py").read_text(encoding="utf-8")


def test_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from danqing import cli

    for verb in ("hf-space", "ms-studio"):
        assert cli.main([verb, "hf:org/name", str(tmp_path / verb)]) == 0
        assert f"danqing {verb}" in (tmp_path / verb / "app.py").read_text(encoding="utf-8")
        shown = capsys.readouterr()
        assert shown.out.startswith("Wrote ") and "--requirement" in shown.err and "danqing==" in shown.err
        words = [verb, "hf:org/name", str(tmp_path / verb), "--force", "--requirement", "https://example.org/danqing.whl"]
        assert cli.main(words) == 0 and capsys.readouterr().err == ""
        readme = (tmp_path / verb / "README.md").read_text(encoding="utf-8")
        assert "Draws pictures" in readme and ("根据中文提示词作画" in readme) == (verb == "ms-studio")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["painter", "pai-diffusion"])
def test_the_app_draws(family: str, converted: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "gradio.py").write_text(STAND_IN)
    apps.write_app("hf-space", converted[family], tmp_path / "space")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'stand-in')!r})\n{RUN}", str(tmp_path / "space")],
        capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    side = {"painter": 256, "pai-diffusion": 64}[family]
    assert found["sizes"] == [[side, side]] * 2 and found["seed"] == 7 and found["denoises"] == (family == "pai-diffusion")
    assert not found["same"] and found["second alone"] <= 1, "the next picture has the next seed"
    assert "提示词" in found["refused"] and found["widgets"] > 8
