"""Painters across layouts: nothing changes, nothing is lost, the same bytes every time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from danqing_pack import convert, detect, pickles
from danqing_pack.errors import ConversionError, DanqingError, RequestError
from danqing_pack.tensors import open_safetensors

MakePainter = Callable[..., Any]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.array() for name, tensor in pickles.load(folder / "pytorch_model.bin").items()}


def assert_same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = other[name]
        assert (value.dtype, value.shape, value.tobytes()) == (same.dtype, same.shape, same.tobytes()), name


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def there_and_back(folder: Path, tmp_path: Path, **options: Any) -> Path:
    convert(folder, tmp_path / "modern", to="diffusers", **options)
    convert(tmp_path / "modern", tmp_path / "back", to="easynlp")
    return tmp_path / "back"


# ---------------------------------------------------------------- bit for bit

def test_the_reference_checkpoint_comes_back_bit_for_bit(painter_checkpoint: Path, tmp_path: Path) -> None:
    back = there_and_back(painter_checkpoint, tmp_path)
    assert_same_arrays(arrays(painter_checkpoint), arrays(back))
    for name in ("config.json", "vocab.txt"):
        assert (back / name).read_bytes() == (painter_checkpoint / name).read_bytes()


def test_a_diffusers_folder_comes_back_byte_for_byte(painter_folder: Path, tmp_path: Path) -> None:
    convert(painter_folder, tmp_path / "legacy", to="easynlp")
    convert(tmp_path / "legacy", tmp_path / "again", to="diffusers")
    before, after = tree(painter_folder), tree(tmp_path / "again")
    assert json.loads(before.pop("danqing.json"))["files"] == json.loads(after.pop("danqing.json"))["files"]
    assert before == after


# ---------------------------------------------------------------- outputs

def test_the_same_input_gives_the_same_bytes(painter_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(painter_checkpoint, tmp_path / name, to="diffusers")
        convert(tmp_path / name, tmp_path / f"{name}-back", to="easynlp")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert tree(tmp_path / "one-back") == tree(tmp_path / "two-back")


def test_danqing_json_names_the_digest_of_each_file(painter_checkpoint: Path, painter_folder: Path) -> None:
    manifest = json.loads((painter_folder / "danqing.json").read_bytes())
    files = tree(painter_folder)
    del files["danqing.json"]
    assert manifest["files"] == {name: sha256(data).hexdigest() for name, data in files.items()}
    assert manifest["source"]["files"] == {name: sha256(data).hexdigest() for name, data in tree(painter_checkpoint).items()}
    assert (manifest["family"], manifest["layout"]) == ("painter", "diffusers")
    assert str(painter_folder) not in json.dumps(manifest)


def test_configuration_json_holds_what_modelscope_asks_and_nothing_else(painter_folder: Path) -> None:
    assert json.loads((painter_folder / "configuration.json").read_bytes()) == {
        "framework": "pytorch", "task": "text-to-image-synthesis", "pipeline": {"type": "danqing"}}


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "float16"), ("bf16", "bfloat16"), ("fp32", "float32")])
def test_weights_are_cast_on_demand(dtype: str, name: str, painter_checkpoint: Path, tmp_path: Path) -> None:
    import torch

    convert(painter_checkpoint, tmp_path / "out", to="diffusers", dtype=dtype)
    assert detect(tmp_path / "out").dtypes.keys() == {name}
    before = pickles.load(painter_checkpoint / "pytorch_model.bin")["transformer.head.weight"].array()
    expected = torch.from_numpy(before.copy()).to(getattr(torch, name))
    written = open_safetensors(tmp_path / "out" / "transformer" / "model.safetensors")["head.weight"].array()
    assert written.tobytes() == expected.view(torch.uint8).numpy().tobytes()


def test_a_dry_run_writes_nothing_and_names_what_it_would_write(painter_checkpoint: Path, tmp_path: Path) -> None:
    planned = convert(painter_checkpoint, tmp_path / "out", to="diffusers", dry_run=True)
    assert not list(tmp_path.iterdir())
    assert "Would write" in planned.describe()
    written = convert(painter_checkpoint, tmp_path / "out", to="diffusers")
    assert list(planned.files) == list(written.files)
    # Of weights the tensors alone count, everything else is known to the byte, danqing.json included.
    assert {name: size for name, size in planned.files.items() if written.files[name] != size}.keys() == {
        "transformer/model.safetensors", "vqvae/diffusion_pytorch_model.safetensors"}


def test_unused_tensors_are_dropped_only_on_demand(make_painter: MakePainter, tmp_path: Path) -> None:
    folder, _, _ = make_painter(extra={"first_stage_model.loss.logvar": np.zeros(3, np.float32)})
    done = convert(folder, tmp_path / "out", to="diffusers", drop_unused=True)
    assert not (tmp_path / "out" / "legacy").exists()
    assert any("partial" in note for note in done.notes)


def test_files_that_are_not_carried_over_are_named(painter_copy: Path, tmp_path: Path) -> None:
    (painter_copy / "pytorch_model.meta.bin").write_bytes(b"optimizer")
    done = convert(painter_copy, tmp_path / "out", to="diffusers")
    assert any("pytorch_model.meta.bin" in note for note in done.notes)


# ---------------------------------------------------------------- bad input

def test_extra_and_missing_keys_are_all_listed(make_painter: MakePainter, tmp_path: Path) -> None:
    folder, _, _ = make_painter(
        extra={"transformer.stray": np.zeros(1, np.float32), "other": np.zeros(1, np.float32)},
        drop=("transformer.blocks.1.mlp.0", "first_stage_model.decoder.conv_out.bias"))
    with pytest.raises(ConversionError) as caught:
        convert(folder, tmp_path / "out", to="diffusers")
    assert caught.value.data["unknown"] == ["other", "transformer.stray"]
    assert caught.value.data["missing"] == [
        "first_stage_model.decoder.conv_out.bias", "transformer.blocks.1.mlp.0.bias", "transformer.blocks.1.mlp.0.weight"]
    assert not (tmp_path / "out").exists()


def test_a_wrong_shape_is_named(make_painter: MakePainter, tmp_path: Path) -> None:
    folder, _, _ = make_painter(extra={"transformer.blocks.0.ln1.weight": np.zeros(7, np.float32)})
    with pytest.raises(ConversionError, match=r"blocks\.0\.ln1\.weight has shape \[7\] instead of \[8\]"):
        convert(folder, tmp_path / "out", to="diffusers")


@pytest.mark.parametrize("damage", ["empty", "no vocab", "no config", "config no json", "truncated", "another kind", "absent"])
def test_bad_folders_get_one_sentence_and_leave_nothing(damage: str, painter_copy: Path, tmp_path: Path) -> None:
    weights = painter_copy / "pytorch_model.bin"
    match damage:
        case "empty":
            for path in painter_copy.iterdir():
                path.unlink()
        case "no vocab":
            (painter_copy / "vocab.txt").unlink()
        case "no config":
            (painter_copy / "config.json").unlink()
        case "config no json":
            (painter_copy / "config.json").write_text("{")
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:100_000])
        case "another kind":
            weights.rename(painter_copy / "model.onnx")
        case "absent":
            painter_copy = tmp_path / "nowhere"
    before = tree(tmp_path)
    with pytest.raises(DanqingError) as caught:
        convert(painter_copy, tmp_path / "out", to="diffusers")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert tree(tmp_path) == before


def test_an_existing_target_is_refused_and_untouched(painter_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="--force"):
        convert(painter_checkpoint, tmp_path / "out", to="diffusers")
    with pytest.raises(RequestError, match="since it holds mine.txt"):
        convert(painter_checkpoint, tmp_path / "out", to="diffusers", force=True)
    assert tree(tmp_path) == {"out/mine.txt": b"mine"}
    (tmp_path / "out" / "danqing.json").write_text("an earlier conversion")
    convert(painter_checkpoint, tmp_path / "out", to="diffusers", force=True)
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_an_unknown_layout_is_refused_with_the_known_ones(painter_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="easynlp, diffusers"):
        convert(painter_checkpoint, tmp_path / "out", to="onnx")


def test_no_torch_is_imported(painter_checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys, danqing_pack as d\n"
        "source, out = sys.argv[1:]\n"
        "d.convert(source, out, to='diffusers'); d.check(out); d.detect(out); d.pack(out, out + '.tar.gz')\n"
        "d.unpack(out + '.tar.gz', out + '-2'); d.convert(out, out + '-3', to='easynlp', dtype='bf16')\n"
        "print(sorted({'torch', 'transformers', 'diffusers'} & sys.modules.keys()))\n")
    done = subprocess.run([sys.executable, "-c", script, str(painter_checkpoint), str(tmp_path / "out")],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
