"""chinese-ldm across layouts: every tensor comes back, what was sampled with decides, the rest is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from danqing_pack import check, convert, detect, pickles
from danqing_pack.errors import ConversionError, DanqingError, FormatError, RequestError
from danqing_pack.families.noise_schedules import BUFFERS
from danqing_pack.tensors import open_safetensors

State = dict[str, torch.Tensor]
MakeCheckpoint = Callable[..., tuple[Path, State]]
UNET = "model.diffusion_model."


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.array() for name, tensor in pickles.load(path).items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = other[name]
        assert (value.dtype, value.shape, value.tobytes()) == (same.dtype, same.shape, same.tobytes()), name


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def weights(folder: Path, part: str) -> dict[str, np.ndarray]:
    name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    return {key: tensor.array() for key, tensor in open_safetensors(folder / part / f"{name}.safetensors").items()}


def there_and_back(folder: Path, tmp_path: Path, **options: Any) -> Path:
    convert(folder, tmp_path / "modern", to="diffusers", **options)
    convert(tmp_path / "modern", tmp_path / "back", to="easynlp")
    return tmp_path / "back"


def index(folder: Path, *names: str) -> Any:
    return json.loads(folder.joinpath(*names).read_text())


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = index(folder, "config.json")
    change(config["model"]["params"])
    (folder / "config.json").write_text(json.dumps(config))


def averaged(state: State) -> State:
    """The state with an EMA copy whose numbers differ from the plain ones."""
    copy = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": value + 1
            for name, value in state.items() if name.startswith(UNET)}
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    return state | copy | counters


# ---------------------------------------------------------------- the reference checkpoint

def test_detect(checkpoint: Path, folder: Path) -> None:
    for place, layout in ((checkpoint, "easynlp"), (folder, "diffusers")):
        found = detect(place)
        assert (found.family, found.layout) == ("chinese-ldm", layout)
        assert (found.dimensions.text_length, found.dimensions.image_size, found.dimensions.upscaler) == (32, 256, True)
        assert found.dimensions.unet.heads == (4, 4, 4)
        assert found.dimensions.scale_factor == 0.18215
        assert "32 text tokens" in found.describe()


def test_check_finds_nothing(checkpoint: Path, folder: Path) -> None:
    assert check(checkpoint) == [] and check(folder) == []


def test_the_reference_checkpoint_comes_back_bit_for_bit(checkpoint: Path, tmp_path: Path) -> None:
    back = there_and_back(checkpoint, tmp_path)
    for name in ("pytorch_model.bin", "RRDB_ESRGAN_x4.pth"):
        assert_same(arrays(checkpoint / name), arrays(back / name))
    for name in ("config.json", "vocab.txt"):
        assert (back / name).read_bytes() == (checkpoint / name).read_bytes()


def test_the_original_reads_what_came_back(checkpoint: Path, tmp_path: Path) -> None:
    lines = (checkpoint.parent / "state_dict_keys.txt").read_text().splitlines()
    found = torch.load(there_and_back(checkpoint, tmp_path) / "pytorch_model.bin", weights_only=True)
    written = {name: (str(list(value.shape)), str(value.dtype).removeprefix("torch.")) for name, value in found.items()}
    assert written == {name: (shape, dtype) for name, shape, dtype in (line.split("\t") for line in lines)}


def test_a_diffusers_folder_comes_back_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "legacy", to="easynlp")
    convert(tmp_path / "legacy", tmp_path / "again", to="diffusers")
    one, other = tree(folder), tree(tmp_path / "again")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name] and name != "danqing.json"] == []


def test_the_same_input_gives_the_same_bytes(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "again", to="diffusers")
    assert tree(tmp_path / "again") == tree(folder)


def test_the_folder_is_a_stock_pipeline(folder: Path) -> None:
    entries = index(folder, "model_index.json")
    assert entries["_class_name"] == "StableDiffusionPipeline"
    assert entries["text_encoder"] == ["danqing.components", "WukongTextEncoder"]
    assert entries["scheduler"] == ["danqing.components", "LegacyPLMSScheduler"]
    assert "upscaler" not in entries
    assert index(folder, "upscaler", "config.json") == {
        "_class_name": "RRDBNet", "features": 8, "blocks": 1, "growth": 32, "channels": 3}
    assert index(folder, "vae", "config.json")["scaling_factor"] == 0.18215
    assert index(folder, "configuration.json") == {
        "framework": "pytorch", "task": "text-to-image-synthesis", "pipeline": {"type": "danqing"}}


def test_nothing_is_left_over(folder: Path) -> None:
    assert not (folder / "legacy" / "unused.safetensors").exists()
    assert sorted(index(folder, "danqing.json")["remade"]) == sorted(BUFFERS)


# ---------------------------------------------------------------- what else a file may hold

@pytest.mark.parametrize("wrapped", [False, True])
def test_the_trainers_extra_prefix_goes(wrapped: bool, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    def prefixed(state: State) -> State:
        return {f"model.{name}": value for name, value in state.items()}

    source, state = make_checkpoint(
        change=prefixed, wrap=lambda state: {"state_dict": state, "epoch": 3} if wrapped else state)
    assert detect(source).family == "chinese-ldm"
    assert any("extra model." in note for note in convert(source, tmp_path / "modern", to="diffusers").notes)
    convert(tmp_path / "modern", tmp_path / "back", to="easynlp")
    plain = {name: value.numpy() for name, value in state.items()}
    assert_same(plain, arrays(tmp_path / "back" / "pytorch_model.bin"))
    convert(source, tmp_path / "mended", to="easynlp")
    assert_same(plain, arrays(tmp_path / "mended" / "pytorch_model.bin"))


def test_a_file_with_the_prefix_on_some_keys_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    def mixed(state: State) -> State:
        return {name if name == "betas" else f"model.{name}": value for name, value in state.items()}

    with pytest.raises(ConversionError, match="betas"):
        convert(make_checkpoint(change=mixed)[0], tmp_path / "modern", to="diffusers")


EMA_RULES = [
    (None, "auto", "ema"), (True, "auto", "ema"), (False, "auto", "plain"),
    (False, "ema", "ema"), (None, "plain", "plain"), (True, "plain", "plain"),
]


@pytest.mark.parametrize(("use_ema", "asked", "taken"), EMA_RULES)
def test_weights(use_ema: bool | None, asked: str, taken: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, state = make_checkpoint(change=averaged)
    edit(source, lambda params: params.pop("use_ema") if use_ema is None else params.update(use_ema=use_ema))
    done = convert(source, tmp_path / "modern", to="diffusers", weights=asked)
    assert any(f"{'EMA' if taken == 'ema' else 'plain'} weights" in note for note in done.notes)
    first = state[f"{UNET}input_blocks.0.0.weight"].numpy() + (taken == "ema")
    np.testing.assert_array_equal(weights(tmp_path / "modern", "unet")["conv_in.weight"], first)
    assert detect(tmp_path / "modern").dimensions.weights == taken
    convert(tmp_path / "modern", tmp_path / "back", to="easynlp")
    assert_same(arrays(source / "pytorch_model.bin"), arrays(tmp_path / "back" / "pytorch_model.bin"))


def test_ema_weights_that_are_not_there(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint()
    with pytest.raises(RequestError, match="no EMA weights"):
        convert(source, tmp_path / "modern", to="diffusers", weights="ema")
    edit(source, lambda params: params.pop("use_ema"))
    assert any("random numbers" in note for note in convert(source, tmp_path / "modern", to="diffusers").notes)


def test_an_ema_copy_with_holes_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    def holed(state: State) -> State:
        full = averaged(state)
        del full["model_ema.diffusion_modelout2bias"]
        return full

    source, _ = make_checkpoint(change=holed, params={"use_ema": True})
    with pytest.raises(ConversionError, match="model_ema.diffusion_modelout2bias is missing"):
        convert(source, tmp_path / "modern", to="diffusers")


def test_without_the_unused_twin_the_way_back_samples_the_same(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, state = make_checkpoint(change=averaged, params={"use_ema": True})
    back = there_and_back(source, tmp_path, drop_unused=True)
    assert not (tmp_path / "modern" / "legacy").exists()
    assert index(back, "config.json")["model"]["params"]["use_ema"] is False
    found = arrays(back / "pytorch_model.bin")
    assert not any(name.startswith("model_ema.") for name in found)
    np.testing.assert_array_equal(found[f"{UNET}out.2.bias"], state[f"{UNET}out.2.bias"].numpy() + 1)
    assert check(back) == []


@pytest.mark.parametrize(("dtype", "shape"), [(torch.float32, ()), (torch.float16, ()), (torch.float32, (1,))])
def test_a_stored_scale_factor_wins(
    dtype: torch.dtype, shape: tuple[int, ...], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    stored = torch.tensor(0.3137, dtype=dtype).reshape(shape)
    source, _ = make_checkpoint(change=lambda state: state | {"scale_factor": stored}, params={"scale_by_std": True})
    back = there_and_back(source, tmp_path)
    assert index(tmp_path / "modern", "vae", "config.json")["scaling_factor"] == stored.item()
    assert_same(arrays(source / "pytorch_model.bin"), arrays(back / "pytorch_model.bin"))


def test_leftovers_of_training_go_along(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    leftovers = {"first_stage_model.loss.logvar": torch.ones(()), "cond_stage_model.logit_scale": torch.ones(1),
                 "logvar": torch.zeros(1000)}
    source, _ = make_checkpoint(change=lambda state: state | leftovers)
    (source / "train_config.json").write_text('{"a": 1}')
    back = there_and_back(source, tmp_path)
    assert sorted(open_safetensors(tmp_path / "modern" / "legacy" / "unused.safetensors")) == sorted(leftovers)
    assert_same(arrays(source / "pytorch_model.bin"), arrays(back / "pytorch_model.bin"))
    assert (back / "train_config.json").read_text() == '{"a": 1}'


def test_a_file_without_schedule_comes_back_without(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint(change=lambda state: {key: value for key, value in state.items() if key not in BUFFERS})
    assert_same(arrays(source / "pytorch_model.bin"), arrays(there_and_back(source, tmp_path) / "pytorch_model.bin"))


def test_half_precision_stays_half_precision(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint(change=lambda state: {name: value.half() for name, value in state.items()})
    back = there_and_back(source, tmp_path)
    assert {value.dtype for value in weights(tmp_path / "modern", "unet").values()} == {np.dtype("f2")}
    assert_same(arrays(source / "pytorch_model.bin"), arrays(back / "pytorch_model.bin"))


# ---------------------------------------------------------------- schedules

def scheduler(folder: Path) -> Any:
    from danqing.components import LegacyPLMSScheduler

    return LegacyPLMSScheduler.from_pretrained(folder / "scheduler")


def original_alphas(name: str, start: float, end: float, cosine_s: float = 8e-3) -> torch.Tensor:
    if name == "linear":
        betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    elif name == "cosine":
        angles = (torch.arange(1001, dtype=torch.float64) / 1000 + cosine_s) / (1 + cosine_s) * torch.pi / 2
        left = angles.cos() ** 2
        betas = (1 - left[1:] / left[:-1]).clip(0, 0.999)
    else:
        betas = torch.linspace(start, end, 1000, dtype=torch.float64)
        betas = betas**0.5 if name == "sqrt" else betas
    return (1 - betas).cumprod(0).float()


SCHEDULES = [
    ("linear", 1e-4, 2e-2, 8e-3, "scaled_linear"), ("sqrt_linear", 1e-4, 2e-2, 8e-3, "linear"),
    ("cosine", 1e-4, 2e-2, 8e-3, "squaredcos_cap_v2"), ("cosine", 1e-4, 2e-2, 2e-2, None),
    ("sqrt", 1e-6, 4e-4, 8e-3, None),
]


@pytest.mark.parametrize(("name", "start", "end", "cosine_s", "modern"), SCHEDULES)
def test_a_schedule_in_config(
    name: str, start: float, end: float, cosine_s: float, modern: str | None, make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
) -> None:
    source, _ = make_checkpoint(
        change=lambda state: {key: value for key, value in state.items() if key not in BUFFERS},
        params={"beta_schedule": name, "linear_start": start, "linear_end": end, "cosine_s": cosine_s})
    convert(source, tmp_path / "modern", to="diffusers")
    found = scheduler(tmp_path / "modern")
    assert (found.config.trained_betas is None) == (modern is not None)
    assert modern is None or found.config.beta_schedule == modern
    torch.testing.assert_close(found.alphas_cumprod, original_alphas(name, start, end, cosine_s), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_stored_schedule_wins(dtype: torch.dtype, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    stored = original_alphas("sqrt_linear", 2e-4, 1e-2).to(dtype)
    source, _ = make_checkpoint(change=lambda state: state | {"alphas_cumprod": stored})
    back = there_and_back(source, tmp_path)
    torch.testing.assert_close(scheduler(tmp_path / "modern").alphas_cumprod, stored.float(), rtol=1e-5, atol=1e-7)
    assert list(open_safetensors(tmp_path / "modern" / "legacy" / "unused.safetensors")) == ["alphas_cumprod"]
    assert_same(arrays(source / "pytorch_model.bin"), arrays(back / "pytorch_model.bin"))


def test_an_unknown_schedule_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="beta_schedule zigzag"):
        convert(make_checkpoint(params={"beta_schedule": "zigzag"})[0], tmp_path / "modern", to="diffusers")


# ---------------------------------------------------------------- sizes

SIZES: list[dict[str, Any]] = [
    {"unet": {"channel_mult": [1, 2, 3], "attention_resolutions": [4, 1], "num_res_blocks": 2}},
    {"unet": {"num_heads": None, "num_head_channels": 8}},
    {"unet": {"num_heads": -1, "num_head_channels": 16, "transformer_depth": 2}},
    {"unet": {"channel_mult": [1], "attention_resolutions": []}},
    {"unet": {"transformer_depth": 3, "context_dim": 24, "in_channels": 4}, "text": {"output_dim": 24}},
    {"cond": {"n_repeat": 2, "normalize": False}},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_any_size_comes_back(sizes: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, state = make_checkpoint(**sizes)
    back = there_and_back(source, tmp_path)
    assert_same({name: value.numpy() for name, value in state.items()}, arrays(back / "pytorch_model.bin"))
    one, other = detect(source).dimensions, detect(tmp_path / "modern").dimensions
    assert one == other
    assert check(tmp_path / "modern") == []


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_folder_without_memory_becomes_a_checkpoint(
    sizes: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """What ``save_pretrained`` writes has neither danqing.json nor legacy/: config.json is made from the networks."""
    source, state = make_checkpoint(**sizes)
    back = there_and_back(source, tmp_path, drop_unused=True)
    (tmp_path / "modern" / "danqing.json").unlink()
    convert(tmp_path / "modern", tmp_path / "made", to="easynlp")
    for place in (back, tmp_path / "made"):
        assert_same({name: value.numpy() for name, value in state.items()}, arrays(place / "pytorch_model.bin"))
        assert detect(place).dimensions == detect(source).dimensions


# ---------------------------------------------------------------- what is refused, and how

REFUSED = [
    ({"unet": {"use_scale_shift_norm": True}}, "use_scale_shift_norm"),
    ({"unet": {"resblock_updown": True}}, "resblock_updown"),
    ({"unet": {"num_classes": 10}}, "num_classes 10"),
    ({"unet": {"n_embed": 16}}, "n_embed 16"),
    ({"unet": {"use_spatial_transformer": False}}, "use_spatial_transformer False"),
    ({"unet": {"conv_resample": False}}, "conv_resample False"),
    ({"unet": {"channel_mult": [2, 2]}}, "channel_mult begins with 2"),
    ({"params": {"conditioning_key": "concat"}}, "conditioning_key concat"),
    ({"text": {"return_full_embed": True}}, "return_full_embed True"),
    ({"cond": {"max_length": 77}}, "max_length 77"),
]


@pytest.mark.parametrize(("sizes", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_has_no_modern_network_is_refused_by_name(
    sizes: dict[str, Any], words: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    texts = sizes.pop("text", {}) if "return_full_embed" in sizes.get("text", {}) else {}
    source, _ = make_checkpoint(**sizes)
    if texts:
        edit(source, lambda params: params["cond_stage_config"]["params"]["text_encoder"].update(texts))
    with pytest.raises(DanqingError, match=words):
        convert(source, tmp_path / "modern", to="diffusers")
    assert not (tmp_path / "modern").exists()
    assert any(words in problem for problem in check(source))


def test_a_network_whose_options_only_its_tensors_show(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    def shifted(state: State) -> State:
        return {name: torch.cat([value, value]) if ".emb_layers.1." in name else value for name, value in state.items()}

    with pytest.raises(FormatError, match="use_scale_shift_norm"):
        convert(make_checkpoint(change=shifted)[0], tmp_path / "modern", to="diffusers")


def test_heads_that_nobody_states(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint()
    edit(source, lambda params: params["unet_config"]["params"].pop("num_heads"))
    with pytest.raises(FormatError, match="neither num_heads nor num_head_channels"):
        convert(source, tmp_path / "modern", to="diffusers")


def test_every_key_without_a_place_is_listed(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    def odd(state: State) -> State:
        del state[f"{UNET}out.2.bias"]
        return state | {"visitor": torch.ones(1), "first_stage_model.another": torch.ones(1)}

    source, _ = make_checkpoint(change=odd)
    with pytest.raises(ConversionError) as caught:
        convert(source, tmp_path / "modern", to="diffusers")
    assert sorted(caught.value.data["unknown"]) == ["first_stage_model.another", "visitor"]
    assert caught.value.data["missing"] == [f"{UNET}out.2.bias"]


def test_a_vocabulary_of_another_checkpoint(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint()
    lines = (source / "vocab.txt").read_text(encoding="utf-8").split("\n")
    (source / "vocab.txt").write_text("\n".join([lines[0], *lines[2:103], lines[1], *lines[103:]]), encoding="utf-8")
    with pytest.raises(FormatError, match=r"\[SEP\]"):
        convert(source, tmp_path / "modern", to="diffusers")
    (source / "vocab.txt").unlink()
    with pytest.raises(FormatError, match="no vocab.txt"):
        convert(source, tmp_path / "modern", to="diffusers")


def test_without_an_upscaler(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint(upscaler=False)
    assert any("RRDB_ESRGAN_x4.pth" in problem for problem in check(source))
    assert any("no upscaler" in note for note in convert(source, tmp_path / "modern", to="diffusers").notes)
    assert not (tmp_path / "modern" / "upscaler").exists()


def test_an_upscaler_of_another_architecture(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source, _ = make_checkpoint()
    torch.save({"model.0.weight": torch.ones(1)}, source / "RRDB_ESRGAN_x4.pth")
    with pytest.raises(ConversionError, match="first architecture"):
        convert(source, tmp_path / "modern", to="diffusers")
