"""Every code block of every card is run: each of the ways draws the picture that the card shows."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

Blocks = list[tuple[str, str]]
WAYS = {"painter": 6, "chinese-ldm": 5, "pai-diffusion": 5}
"""Pictures that the code of a family's card draws: Danqing twice, ModelScope, diffusers, transformers, EAS."""


@pytest.mark.parametrize("family", list(WAYS))
def test_every_way_draws_the_first_example(
    family: str, converted: Mapping[str, Path], blocks: Callable[[str], Blocks], run_blocks: Callable[..., str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from danqing import cli

    (tmp_path / "my model").mkdir()
    place = tmp_path / "my model" / family
    place.symlink_to(converted[family])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    card = tmp_path / "card" / "README.md"
    card.parent.mkdir()
    assert cli.main(["card", str(place), "--out", str(card), "--language", "both", "--device", "cpu"]) == 0
    found = blocks(card.read_text(encoding="utf-8"))
    assert found == blocks((tmp_path / "card" / "README.zh.md").read_text(encoding="utf-8")), "code differs by language"

    [pack] = [code for _, code in found if code.startswith("danqing pack")]
    [serve] = [code for _, code in found if code.startswith("danqing serve")]
    rest = [(language, code) for language, code in found if code not in (pack, serve)]
    monkeypatch.chdir(place.parent)
    assert cli.main(pack.split()[1:]) == 0
    with served(serve, place.parent) as port:
        # the libraries' own ways first: Danqing must be found without having been imported
        rest.sort(key=lambda block: "danqing" in block[1].split("\n")[0])
        run_blocks([(language, code.replace(":8080/", f":{port}/")) for language, code in rest], place.parent)
    drawn = [*place.parent.glob("*.png"), *place.parent.glob("danqing-out/*.png")]
    assert len(drawn) == WAYS[family], drawn
    example = pixels(card.with_name("example-1.png"))
    assert example.std() > 1, "an empty picture would equal any other"
    for path in drawn:
        assert np.abs(pixels(path) - example).max() <= 1, path.name


@pytest.mark.parametrize(("family", "hub"), [("painter", "hf"), ("painter", "ms"), ("chinese-ldm", "hf"), ("pai-diffusion", "ms")])
def test_a_published_model_runs_by_its_name(
    family: str, hub: str, converted: Mapping[str, Path], blocks: Callable[[str], Blocks],
    run_blocks: Callable[..., str], tmp_path: Path,
) -> None:
    from danqing_pack import cards

    text = cards.write_card(converted[family], tmp_path / "README.md").path.read_text(encoding="utf-8")
    found = [(language, code) for language, code in blocks(cards.for_hub(text, hub, f"me/{family}"))
             if "urllib" not in code and "serve" not in code]
    assert all(f"me/{family}" in code for _, code in found)
    with double() as hubs:
        hubs.fill(hub, f"me/{family}", converted[family])
        variables = {
            "HF_ENDPOINT": hubs.address, "MODELSCOPE_ENDPOINT": hubs.address, "HF_HOME": str(tmp_path / "hf"),
            "MODELSCOPE_CACHE": str(tmp_path / "ms"), "HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_XET": "1"}
        run_blocks(sorted(found, key=lambda block: "danqing" in block[1].split("\n")[0]), tmp_path, **variables)
    assert len([*tmp_path.glob("*.png"), *tmp_path.glob("danqing-out/*.png")]) == WAYS[family] - 1
    assert (tmp_path / "model.tar.gz").is_file()


def test_a_folder_of_easynlp_runs_as_printed(
    painter_copy: Path, blocks: Callable[[str], Blocks], run_blocks: Callable[..., str],
) -> None:
    from danqing_pack import cards

    text = cards.write_card(painter_copy).path.read_text(encoding="utf-8")
    [modelscope] = [block for block in blocks(text) if "modelscope.pipelines" in block[1]]
    assert "import danqing" not in modelscope[1]
    run_blocks([modelscope], painter_copy.parent)
    assert pixels(painter_copy.parent / "modelscope.png").std() > 1


def pixels(path: Path) -> Any:
    """int [H, W, 3]"""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@contextmanager
def served(command: str, folder: Path) -> Iterator[int]:
    """The service of a card's command, on a port that is free; that port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = command.replace("8080", str(port)).split()[1:]
    process = subprocess.Popen([sys.executable, "-m", "danqing", *words], cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            assert process.poll() is None, process.communicate()[1]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def double() -> Iterator[Any]:
    """The loopback double of both hubs that the tests of push and pull use."""
    place = Path(__file__).parents[1] / "hubs" / "conftest.py"
    spec = importlib.util.spec_from_file_location("cards_hub_double", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    hubs = module.Double()
    try:
        yield hubs
    finally:
        hubs.close()
