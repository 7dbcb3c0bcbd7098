"""A painter that brings its own code draws the same pictures where Danqing is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing.publishing import self_contained
from danqing.publishing.self_contained import write_self_contained
from danqing_pack import cards, check, convert, detect
from danqing_pack.errors import RequestError

ALONE = """
import importlib.util, sys
class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("danqing", "danqing_pack", "danqing_autoload"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path[:] = [Nobody(), *(finder for finder in sys.meta_path if "danqing" not in type(finder).__module__)]
for name in [name for name in sys.modules if name.startswith("danqing")]:
    del sys.modules[name]
try:
    import danqing
except ModuleNotFoundError:
    pass
else:
    sys.exit("Danqing is still there")
import numpy as np, torch
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained("alone")
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    sys.exit("the code was run without trust")
pipe = DiffusionPipeline.from_pretrained("alone", trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
generators = lambda: [torch.Generator().manual_seed(seed) for seed in (1, 2, 3, 4)]
found = {"drawn": pipe(["宽松T恤", "山水"], num_images_per_prompt=2, generator=generators(), batch_size=3).images,
         "greedy": pipe("宽松T恤", do_sample=False).images,
         "free": pipe("宽松T恤", generator=torch.Generator().manual_seed(5), top_k=None, temperature=0.5).images}
np.savez("drawn.npz", **{name: np.stack([np.asarray(each) for each in images]) for name, images in found.items()})
assert not any(name.startswith("danqing") for name in sys.modules)
"""


def test_weights_and_vocabulary_are_the_folders(painter: Path, tmp_path: Path) -> None:
    done = write_self_contained(painter, tmp_path / "alone")
    index = json.loads((tmp_path / "alone" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "PainterPipeline"]
    assert index["transformer"] == ["painter_transformer", "PainterTransformer"]
    for name in ("transformer/model.safetensors", "vqvae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.txt"):
        assert (tmp_path / "alone" / name).read_bytes() == (painter / name).read_bytes()
    assert {"pipeline.py", "transformer/painter_transformer.py"} <= done.files.keys()
    assert not (tmp_path / "alone" / "configuration.json").exists(), "ModelScope would look for Danqing"
    assert check(tmp_path / "alone") == [] and detect(tmp_path / "alone").family == "painter"


def test_its_code_imports_nothing_of_ours() -> None:
    for module in (self_contained.PIPELINE, self_contained.TRANSFORMER):
        source = self_contained.source_of(module).decode()
        assert "import danqing" not in source and "from danqing" not in source


def test_the_way_back_is_the_plain_folder(painter: Path, tmp_path: Path) -> None:
    write_self_contained(painter, tmp_path / "alone")
    convert(tmp_path / "alone", tmp_path / "plain", to="diffusers")
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    assert index["_class_name"] == "PainterPipeline" and index["transformer"] == ["danqing.components", "PainterTransformer"]
    assert not list((tmp_path / "plain").rglob("*.py"))


def test_its_card_offers_what_works(painter: Path, tmp_path: Path) -> None:
    write_self_contained(painter, tmp_path / "alone")
    text = cards.write_card(tmp_path / "alone").path.read_text(encoding="utf-8")
    assert "trust_remote_code=True" in text and text.count("```python") == 1 and "danqing generate" not in text
    assert cards.validate(text, tmp_path / "alone") == [] and check(tmp_path / "alone") == []
    assert "converted from" not in text and "self-contained variant of the checkpoint" in text
    assert "without a further import" not in text and "pipeline_name" not in text
    moved = cards.for_hub(text, "hf", "me/alone")
    assert 'from_pretrained("me/alone", trust_remote_code=True)' in moved


def test_other_families_are_refused(converted: Mapping[str, Path], tmp_path: Path) -> None:
    for family in ("chinese-ldm", "pai-diffusion"):
        with pytest.raises(RequestError, match="without --self-contained"):
            write_self_contained(converted[family], tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


@pytest.mark.slow
@pytest.mark.parametrize("n_unmasked", [0, 40])
def test_it_draws_the_same_pictures_without_danqing(n_unmasked: int, painter: Path, tmp_path: Path) -> None:
    import danqing
    import torch

    if n_unmasked:
        plain = painter / "transformer" / "config.json"
        plain.write_text(json.dumps({**json.loads(plain.read_text()), "n_unmasked": n_unmasked}))
        (painter / "danqing.json").unlink()
        shutil.rmtree(painter / "legacy", ignore_errors=True)
    write_self_contained(painter, tmp_path / "alone")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=400,
                          env={**environment(), "HF_MODULES_CACHE": str(tmp_path / "modules")})
    assert done.returncode == 0, done.stderr
    found: Any = np.load(tmp_path / "drawn.npz")
    for folder in (painter, tmp_path / "alone"):     # the plain one, and this one opened by Danqing
        pipe = danqing.load(folder, device="cpu", dtype="fp32")
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3, 4)]
        expected = {
            "drawn": pipe(["宽松T恤", "山水"], num_images_per_prompt=2, generator=generators).images,
            "greedy": pipe("宽松T恤", do_sample=False).images,
            "free": pipe("宽松T恤", generator=torch.Generator().manual_seed(5), top_k=None, temperature=0.5).images}
        for name, images in expected.items():
            pixels = np.stack([np.asarray(each) for each in images]).astype(int)
            assert pixels.std() > 1 and np.abs(pixels - found[name]).max() <= 1, name


def environment() -> dict[str, str]:
    """This process's variables, on one thread."""
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}
