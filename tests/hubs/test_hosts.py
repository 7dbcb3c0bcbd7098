"""The hubs' own command lines run Danqing, and start no slower for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

ENTRY = EntryPoint("danqing", "danqing.hosts.modelscope_command:Danqing", "modelscope_hub.cli_plugins")


@pytest.fixture
def modelscope(place: Any) -> Any:
    """ModelScope's command line, beside an installed distribution that registers the entry point."""
    folder = place.home / "site" / "registered-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: registered\nVersion: 0\n")
    (folder / "entry_points.txt").write_text(f"[{ENTRY.group}]\n{ENTRY.name} = {ENTRY.value}\n")
    return lambda *words: place.run("-m", "modelscope_hub.cli.main", *words, check=False, PYTHONPATH=str(folder.parent))


def test_the_wheel_registers_it() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'[project.entry-points."{ENTRY.group}"]\n{ENTRY.name} = "{ENTRY.value}"' in text


@pytest.mark.slow                       # the host imports torch
@pytest.mark.parametrize(("words", "shown", "code"), [
    (("danqing", "push", "--help"), "--dry-run", 0), (("danqing", "detect", "/nowhere"), "There is nothing at /nowhere", 1),
    (("--help",), "danqing", 0)])
def test_modelscope_danqing(modelscope: Any, words: tuple[str, ...], shown: str, code: int) -> None:
    done = modelscope(*words)
    assert done.returncode == code and shown in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_host_imports_nothing_heavy_for_it(place: Any) -> None:
    script = ("import sys; before = set(sys.modules)\nimport danqing.hosts.modelscope_command\n"
              "print(sorted(each for each in set(sys.modules) - before if not each.startswith('danqing')))")
    new = set(json.loads(place.run("-c", script).stdout.replace("'", '"')))
    assert not new & {"torch", "numpy", "diffusers", "transformers", "modelscope", "huggingface_hub", "danqing_pack"}


def test_what_the_hosts_help_imports_of_ours(modelscope: Any, place: Any) -> None:
    """Four small modules for `modelscope --help`, none for `hf --help`: that is what keeps both as fast as they were."""
    script = ("import sys, modelscope_hub.cli.main\nbefore = set(sys.modules)\nimport danqing.hosts.modelscope_command\n"
              "print(*sorted(set(sys.modules) - before))")
    ours = {"danqing", "danqing.hosts", "danqing.hosts.modelscope_command", "danqing.version"}
    assert set(place.run("-c", script).stdout.split()) <= ours | {"danqing_autoload"}
    place.danqing("integrate", "hf")
    script = ("import sys\nfrom huggingface_hub.cli.hf import main\nsys.argv = ['hf', '--help']\ntry:\n    main()\n"
              "except SystemExit:\n    pass\nprint('ours:', *[each for each in sys.modules if each.split('.')[0] in "
              "('danqing', 'danqing_pack')])")
    assert place.run("-c", script).stdout.splitlines()[-1].strip() == "ours:"


def hf(place: Any, *words: str) -> subprocess.CompletedProcess[str]:
    return place.run("-c", "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; sys.exit(main())",  # type: ignore[no-any-return]
                     *words, check=False, HF_HUB_DISABLE_UPDATE_CHECK="", HTTPS_PROXY="http://127.0.0.1:9")


def test_hf_danqing(place: Any) -> None:
    line = place.danqing("integrate", "hf").stdout
    folder = place.home / ".local/share/hf/extensions/hf-danqing"
    assert str(folder) in line and os.access(folder / "hf-danqing", os.X_OK)
    done = hf(place, "danqing", "--version")
    assert done.returncode == 0 and done.stdout.startswith("danqing "), done.stderr
    assert hf(place, "danqing", "detect", "/nowhere").returncode == 1
    assert "danqing" in hf(place, "--help").stdout
    place.danqing("integrate", "hf")            # again: replaced
    assert "Removed" in place.danqing("integrate", "hf", "--remove").stdout and not folder.exists()
    assert "There is no extension" in place.danqing("integrate", "hf", "--remove").stdout


def test_an_extension_of_somebody_else_stays(place: Any) -> None:
    folder = place.home / ".local/share/hf/extensions/hf-danqing"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"owner": "them"}')
    for words in (("integrate", "hf"), ("integrate", "hf", "--remove")):
        done = place.danqing(*words, check=False)
        assert done.returncode == 1 and "somebody else" in done.stderr
    assert (folder / "manifest.json").read_text() == '{"owner": "them"}' and sys.executable
