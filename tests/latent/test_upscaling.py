"""The upscaler: the original's numbers, tiles that nobody sees, and every kind of picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import danqing
import numpy as np
import pytest
import torch
from danqing.components import RRDBNet
from danqing.upscaling import OVERLAP, Upscaler
from danqing_pack import pack
from danqing_pack.errors import DanqingError, FormatError, RequestError
from PIL import Image

State = dict[str, torch.Tensor]


def random_net(features: int = 8, blocks: int = 2, growth: int = 8, gain: float = 1.0) -> RRDBNet:
    """A network whose residuals count, the more the larger ``gain`` is, with an output that fills [0, 1]."""
    torch.manual_seed(0)
    net = RRDBNet(features, blocks, growth).requires_grad_(False)
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, a=0.2).mul_(gain)
            torch.nn.init.normal_(layer.bias, std=0.1)
    probe = net(torch.rand(1, 3, 24, 24))
    net.conv_last.weight /= probe.std() * 4
    net.conv_last.bias += 0.5 - net(torch.rand(1, 3, 24, 24)).mean()
    return net


@pytest.fixture(scope="module")
def upscaler(folder: Path) -> Upscaler:
    return danqing.load_upscaler(folder, device="cpu")


def test_the_reference(upscaler: Upscaler, expected: Callable[[str], State]) -> None:
    data = expected("esrgan")
    torch.testing.assert_close(upscaler.upscale(data["low_res"]), data["super_res"], atol=1e-5, rtol=0)


def test_the_reference_in_tiles(upscaler: Upscaler, expected: Callable[[str], State]) -> None:
    data = expected("esrgan")
    small = Upscaler(upscaler.net, tile=5)
    torch.testing.assert_close(small.upscale(data["low_res"]), data["super_res"], atol=1e-5, rtol=0)


def test_colours_are_swapped_inside(upscaler: Upscaler, expected: Callable[[str], State]) -> None:
    data = expected("esrgan")
    wrong = upscaler.upscale(data["low_res"].flip(1))
    assert (wrong - data["super_res"]).abs().max() > 0.1


def test_the_first_of_the_samples(upscaler: Upscaler, expected: Callable[[str], State]) -> None:
    found = upscaler.upscale(expected("sample")["images_steps10"][:1])[..., :64, :64]
    torch.testing.assert_close(found, expected("sample_super_res_crop")["images_super_res_crop"], atol=1e-4, rtol=0)


# ---------------------------------------------------------------- tiles

@pytest.mark.parametrize(("tile", "overlap"), [(48, OVERLAP), (37, OVERLAP)])
def test_no_seam_is_seen(tile: int, overlap: int) -> None:
    net, image = random_net(blocks=12, gain=1.5), torch.rand(1, 3, 40, 140)
    whole = Upscaler(net, tile=1000).upscale(image)
    assert 0.05 < whole.mean() < 0.95 and whole.std() > 0.1
    difference = (Upscaler(net, tile, overlap).upscale(image) - whole).abs().max() * 255
    assert difference < 0.1


def test_without_an_overlap_there_are_seams() -> None:
    net, image = random_net(), torch.rand(1, 3, 96, 96)
    difference = (Upscaler(net, 48, 0).upscale(image) - Upscaler(net).upscale(image)).abs().max() * 255
    assert difference > 8


@pytest.mark.slow
def test_no_seam_at_the_released_size() -> None:
    net, image = random_net(64, 23, 32), torch.rand(1, 3, 72, 200)
    whole = Upscaler(net, tile=1000).upscale(image)
    assert (Upscaler(net, tile=48).upscale(image) - whole).abs().max() * 255 < 1


def test_what_a_call_holds_at_once_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest piece that either half of the network is given."""
    net, seen = random_net(), {"trunk": 0, "tail": 0}
    for name in seen:
        half = getattr(net, name)

        def watched(x: torch.Tensor, name: str = name, half: Callable[..., torch.Tensor] = half) -> torch.Tensor:
            seen[name] = max(seen[name], x.shape[-1] * x.shape[-2])
            return half(x)

        monkeypatch.setattr(net, name, watched)
    largest = []
    for side in (100, 200, 400):
        Upscaler(net, tile=32).upscale(torch.rand(1, 3, side, 60))
        largest.append(dict(seen))
    assert largest[1] == largest[2]


# ---------------------------------------------------------------- pictures

def test_every_kind_of_picture_gives_the_same(upscaler: Upscaler) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    expected = upscaler(Image.fromarray(pixels))
    assert isinstance(expected, Image.Image) and expected.size == (56, 36) and expected.mode == "RGB"
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    floats = (pixels / 255).astype(np.float32)
    for picture in (pixels, floats, tensor, tensor / 255):
        assert np.abs(np.asarray(upscaler(picture)).astype(int) - np.asarray(expected)).max() <= 1
    for several in ([pixels, floats], np.stack([floats, floats]), torch.stack([tensor, tensor]), (tensor, pixels)):
        found = upscaler(several)
        assert isinstance(found, list) and [each.size for each in found] == [(56, 36)] * 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_modes(mode: str, upscaler: Upscaler) -> None:
    picture = Image.effect_noise((12, 8), 60).convert(mode)
    assert np.array_equal(np.asarray(upscaler(picture)), np.asarray(upscaler(picture.convert("RGB"))))


def test_bytes_are_made_by_truncation(upscaler: Upscaler) -> None:
    image = torch.rand(3, 8, 8)
    exact = upscaler.upscale(image[None])[0].permute(1, 2, 0).numpy() * 255
    assert np.array_equal(np.asarray(upscaler(image)), exact.astype(np.uint8))


@pytest.mark.parametrize("thing", ["a path", np.zeros((4, 4)), torch.zeros(4, 4, 3), 7, None], ids=str)
def test_no_picture(thing: Any, upscaler: Upscaler) -> None:
    with pytest.raises(RequestError, match="cannot be enlarged"):
        upscaler(thing)


# ---------------------------------------------------------------- where upscalers lie

def test_every_place(checkpoint: Path, folder: Path, upscaler: Upscaler, tmp_path: Path) -> None:
    pack(folder, tmp_path / "bundle.tar.gz")
    image = torch.rand(1, 3, 8, 8)
    expected = upscaler.upscale(image)
    for place in (checkpoint, checkpoint / "RRDB_ESRGAN_x4.pth", folder / "upscaler", tmp_path / "bundle.tar.gz"):
        assert torch.equal(danqing.load_upscaler(place, device="cpu").upscale(image), expected)


def test_an_old_format_file(checkpoint: Path, upscaler: Upscaler, tmp_path: Path) -> None:
    """The released file is of 2018, from before torch wrote zip files."""
    state = torch.load(checkpoint / "RRDB_ESRGAN_x4.pth", weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    image = torch.rand(1, 3, 8, 8)
    old = danqing.load_upscaler(tmp_path / "old.pth", device="cpu")
    assert torch.equal(old.upscale(image), upscaler.upscale(image))


def test_no_upscaler_there(painter_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="has no upscaler"):
        danqing.load_upscaler(painter_checkpoint)
    with pytest.raises(DanqingError, match="nothing at"):
        danqing.load_upscaler(tmp_path / "nowhere")


def test_it_saves_and_loads(tmp_path: Path) -> None:
    net = random_net()
    net.save_pretrained(tmp_path)
    again = RRDBNet.from_pretrained(tmp_path)
    assert (again.config.features, again.config.blocks, again.config.growth) == (8, 2, 8)
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(again(image), net(image)) and type(again).__module__ == "danqing.components"


def test_reduced_precision(folder: Path, upscaler: Upscaler) -> None:
    image = torch.rand(1, 3, 16, 16)
    half = danqing.load_upscaler(folder, device="cpu", dtype="bf16").upscale(image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, upscaler.upscale(image), atol=0.05, rtol=0)
