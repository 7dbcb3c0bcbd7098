"""What `danqing.load` fetches of a repository in which the same weights lie several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from danqing_pack.errors import HubError
from danqing_pack.hubs import snapshot
from danqing_pack.needless import needless

NAME = "org/sd"
OPENED = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
          "vae/diffusion_pytorch_model.bin", "text_encoder/config.json", "text_encoder/model.safetensors.index.json",
          "text_encoder/model-00001-of-00002.safetensors", "text_encoder/model-00002-of-00002.safetensors",
          "tokenizer/vocab.txt", "scheduler/scheduler_config.json", "legacy/unused.safetensors", "README.md"]
OTHERS = ["model.ckpt", "v1.safetensors", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
          "vae/diffusion_pytorch_model.fp16.bin", "text_encoder/pytorch_model.bin", "text_encoder/flax_model.msgpack",
          "unet/model.onnx"]


def test_which_files_nobody_opens() -> None:
    assert needless(OPENED + OTHERS) == set(OTHERS)
    assert needless([name for name in OPENED + OTHERS if name != "model_index.json"]) == frozenset()
    # What is not understood is fetched.
    odd = ["model_index.json", "unet/weights.safetensors", "unet/weights.bin", "onnx/unet/model.onnx"]
    assert needless(odd) == frozenset()
    variant = ["model_index.json", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.bin"]
    assert needless(variant) == {"unet/diffusion_pytorch_model.fp16.bin"}


def test_the_rule_is_that_of_the_reader(golden: Path, tmp_path: Path) -> None:
    """A folder without its needless files is the same checkpoint to `detect`."""
    import shutil

    from danqing_pack import convert, detect

    convert(golden / "diffusers-2023/pipeline", tmp_path / "all", to="diffusers")
    for path in (golden / "diffusers-2023/pipeline").rglob("*.bin"):
        twin = tmp_path / "all" / path.relative_to(golden / "diffusers-2023/pipeline")
        if not twin.exists():
            shutil.copyfile(path, twin)
    names = [path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*") if path.is_file()]
    gone = needless(names)
    whole = detect(tmp_path / "all")
    for name in gone:
        (tmp_path / "all" / name).unlink()
    lean = detect(tmp_path / "all")
    assert gone and (lean.family, lean.parameters, lean.dtypes) == (whole.family, whole.parameters, whole.dtypes)


@pytest.fixture
def twice(place: Any, hub: str, tmp_path: Path) -> Any:
    """A repository with everything in it."""
    for name in OPENED + OTHERS:
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_bytes(name.encode())
    place.double.fill(hub, NAME, tmp_path / "repo", tag="v1")
    return place


# The clients read where their caches lie when they are imported, so each fetches in a process of its own.
FETCH = "import sys; from danqing_pack.hubs import snapshot; print('in', snapshot(*sys.argv[1:]))"


def names_in(output: str) -> set[str]:
    folder = Path(next(line[3:] for line in output.splitlines() if line.startswith("in ")))
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")}


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_nothing_needless_travels(twice: Any, hub: str, revision: str) -> None:
    found = names_in(twice.run("-c", FETCH, hub, NAME + revision).stdout)
    assert found == set(OPENED)
    for name in OTHERS:
        assert not any(f"GET /{NAME}/resolve" in each and each.endswith(name) or f"FilePath={name}" in each
                       for each in twice.double.requests), name


def test_a_hub_that_is_away(twice: Any, hub: str) -> None:
    """What the client finds in its cache then is its own affair."""
    twice.run("-c", FETCH, hub, NAME)
    done = twice.run("-c", FETCH, hub, NAME, HF_ENDPOINT="http://127.0.0.1:9", MODELSCOPE_ENDPOINT="http://127.0.0.1:9",
                     check=False)
    if hub == "hf":
        assert names_in(done.stdout) == set(OPENED)
    else:
        assert done.returncode == 1 and "HubError: ms:org/sd cannot be fetched: ModelScope at" in done.stderr


def test_offline_asks_nobody(twice: Any, hub: str) -> None:
    if hub == "ms":
        pytest.skip("ModelScope's client has no such mode")
    twice.run("-c", FETCH, hub, NAME)
    twice.double.requests.clear()
    assert names_in(twice.run("-c", FETCH, hub, NAME, HF_HUB_OFFLINE="1").stdout) == set(OPENED)
    assert twice.double.requests == []


def test_a_token_that_has_expired(twice: Any, hub: str) -> None:
    """Hugging Face's client still gives what it has."""
    twice.run("-c", FETCH, hub, NAME)
    done = twice.run("-c", FETCH, hub, NAME, HF_TOKEN="hf_expiredexpired", MODELSCOPE_API_TOKEN="expired", check=False)
    if hub == "hf":
        assert names_in(done.stdout) == set(OPENED)
    else:
        assert "does not accept the token" in done.stderr and "expired" not in done.stderr


def test_a_cache_without_what_is_opened(twice: Any, hub: str) -> None:
    """A download that was interrupted is no model."""
    if hub == "ms":
        pytest.skip("ModelScope's client has no such mode")
    twice.run("-c", FETCH, "hf", NAME)
    for path in twice.home.glob("hf/hub/*/snapshots/*/unet/config.json"):
        path.unlink()
    done = twice.run("-c", FETCH, "hf", NAME, HF_HUB_OFFLINE="1", check=False)
    assert done.returncode == 1 and "HF_HUB_OFFLINE=1 forbids the network, and the cache does not hold it" in done.stderr


def test_there_is_none(place: Any, hub: str) -> None:
    with pytest.raises(HubError, match="no such repository"):
        snapshot(hub, NAME)
