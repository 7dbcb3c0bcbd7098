#!/usr/bin/env python3
"""Converting a painter, against copying and hashing its file: seconds and peak memory added, turn by turn.

The checkpoint is random, of the painter's shapes and of the size asked for, written here without torch. Every turn runs
in a process of its own that has imported what it needs before the clock starts. The bar is 1.5 times `cp` plus one
sha256 pass (hashlib) over source and copy, and, for memory, the largest tensor plus 64 MiB. `naive` is torch.load, then
safetensors' save_file, without a digest. `detect` is a whole process, imports included, less the interpreter's start.
`cpu` is processor seconds of all threads and children: on a busy machine it tells more than the wall clock. Ratios are
medians over the rounds, each within one round. A table goes to stderr, one line of JSON to stdout; exits with 1 if the
bar is missed.

    tools/bench_convert.py [--size 1G] [--rounds 3] [--folder /dev/shm]      needs three times the size there
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "packaging"))

import numpy as np  # noqa: E402
from danqing_pack import pickles  # noqa: E402
from danqing_pack.families.autoencoders import AutoencoderDimensions  # noqa: E402
from danqing_pack.families.painter import causal_mask  # noqa: E402
from danqing_pack.families.painter_sizes import PainterDimensions, transformer_table, vqgan_table  # noqa: E402
from danqing_pack.tensors import Tensor  # noqa: E402

BAR, MARGIN = 1.5, 64 << 20
UNITS = {"M": 1 << 20, "G": 1 << 30}

RUN = """
import json, os, shutil, subprocess, sys, time
from pathlib import Path
source, target, back = map(Path, sys.argv[1:])
def hashed(path):
    import hashlib
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))
{prepare}
Path("/proc/self/clear_refs").write_text("5")
before, clock, processor = memory("VmRSS"), time.perf_counter(), sum(os.times()[:4])
{work}
wall, cpu = time.perf_counter() - clock, sum(os.times()[:4]) - processor
print(json.dumps([wall, cpu, memory("VmHWM") - before]))
"""

CONVERT = "from danqing_pack.conversion import convert"
TURNS = {
    "cp": ("", "subprocess.run(['cp', source / 'pytorch_model.bin', target], check=True)"),
    "cp + sha256": ("import hashlib", "subprocess.run(['cp', source / 'pytorch_model.bin', target], check=True)\n"
                    "hashed(source / 'pytorch_model.bin')\nhashed(target)"),
    "naive": ("import torch\nfrom safetensors.torch import save_file",
              "save_file(torch.load(source / 'pytorch_model.bin', weights_only=True), target)"),
    "to diffusers": (CONVERT, "convert(source, target, to='diffusers')"),
    "to diffusers fp16": (CONVERT, "convert(source, target, to='diffusers', dtype='fp16')"),
    "to diffusers bf16": (CONVERT, "convert(source, target, to='diffusers', dtype='bf16')"),
    "to easynlp": (CONVERT, "convert(back, target, to='easynlp')"),
    "to easynlp fp16": (CONVERT, "convert(back, target, to='easynlp', dtype='fp16')"),
}


def painter(nbytes: int) -> PainterDimensions:
    """A painter of about this many bytes in fp32: EasyNLP's shapes, as wide as its large model, as deep as it takes."""
    vqgan = AutoencoderDimensions(channels=(128, 128, 256, 256, 512), attention=(False, False, False, False, True),
                                  layers_per_block=2, latent_channels=256, in_channels=3, out_channels=3)
    width = 1024 if nbytes > 300 << 20 else 256
    size: dict[str, Any] = dict(
        vocab_size=37512, image_vocab_size=16384, block_size=288, text_length=32, image_length=256, layers=0, heads=16,
        width=width, n_unmasked=0, entity_dim=0, codes=16384, code_width=256, attention_dropout=0.0,
        embedding_dropout=0.0, residual_dropout=0.0, vqgan=vqgan)
    fixed = sum(4 * prod(shape) for shape in shapes(PainterDimensions(**size)).values())
    layers = max(1, round((nbytes - fixed) / (4 * 12 * width**2)))
    return PainterDimensions(**{**size, "layers": layers})


def shapes(size: PainterDimensions) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape under its legacy name."""
    table = transformer_table(size).under("transformer", "t") + vqgan_table(size).under("first_stage_model", "v")
    return {name: row.shape or () for row in table.rows for name in row.legacy}


def write_checkpoint(folder: Path, size: PainterDimensions) -> None:
    """An EasyNLP folder of random weights."""
    folder.mkdir()
    noise = np.random.default_rng(0).standard_normal(1 << 24, np.float32) * np.float32(0.02)
    tensors = {name: Tensor.derived(noise.dtype, shape, partial(np.resize, noise, shape))
               for name, shape in shapes(size).items()}
    mask = causal_mask(size).astype(np.float32)
    tensors |= {f"transformer.blocks.{i}.attn.mask": Tensor.of(mask) for i in range(size.layers)}
    pickles.dump(folder / "pytorch_model.bin", tensors)
    config = {"model_type": "artist", "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"绿水青山"]))


def turn(name: str, place: Path) -> tuple[float, float, int]:
    """Wall seconds, processor seconds, peak bytes added; what was written is removed."""
    prepare, work = TURNS[name]
    program = RUN.replace("{prepare}", prepare).replace("{work}", work)
    target = place / "target"
    try:
        done = subprocess.run([sys.executable, "-c", program, place / "legacy", target, place / "modern"], check=True,
                              stdout=subprocess.PIPE, text=True, cwd=ROOT / "packaging")
    finally:
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    wall, cpu, peak = json.loads(done.stdout)
    return wall, cpu, peak


def detection(place: Path) -> float:
    """Seconds until a fresh interpreter has said what lies there."""
    program = ("import time; start = time.perf_counter(); import sys; from danqing_pack import detect\n"
               "detect(sys.argv[1]); print(time.perf_counter() - start)")
    done = subprocess.run([sys.executable, "-c", program, place / "legacy"], check=True, stdout=subprocess.PIPE,
                          text=True, cwd=ROOT / "packaging")
    return float(done.stdout)


def measure(place: Path, nbytes: int, rounds: int) -> dict[str, Any]:
    """All turns, round by round, on one checkpoint."""
    size = painter(nbytes)
    write_checkpoint(place / "legacy", size)
    from danqing_pack.conversion import convert

    convert(place / "legacy", place / "modern", to="diffusers")
    turns: dict[str, list[tuple[float, float, int]]] = {name: [] for name in TURNS}
    detections = []
    for _ in range(rounds):
        for name, results in turns.items():
            results.append(turn(name, place))
        detections.append(detection(place))
    bar = turns["cp + sha256"]
    largest = max(4 * prod(shape) for shape in shapes(size).values())
    return {
        "bytes": (place / "legacy" / "pytorch_model.bin").stat().st_size, "layers": size.layers, "rounds": rounds,
        "largest_tensor": largest, "detect_seconds": round(statistics.median(detections), 3),
        "turns": {name: {
            "wall": round(statistics.median(wall for wall, _, _ in results), 3),
            "cpu": round(statistics.median(cpu for _, cpu, _ in results), 3),
            "peak": max(peak for _, _, peak in results),
            "wall_ratio": round(statistics.median(one[0] / two[0] for one, two in zip(results, bar, strict=True)), 3),
            "cpu_ratio": round(statistics.median(one[1] / two[1] for one, two in zip(results, bar, strict=True)), 3),
        } for name, results in turns.items()},
    }


def report(found: dict[str, Any]) -> bool:
    """Print the table; whether the bar was met."""
    limit = found["largest_tensor"] + MARGIN
    print(f"{found['bytes'] / 2**20:,.0f} MiB, {found['layers']} layers, {found['rounds']} rounds, medians; bar: "
          f"{BAR} x (cp + sha256) and {limit / 2**20:.0f} MiB; detect {found['detect_seconds']:.3f} s", file=sys.stderr)
    print(f"{'':20}{'wall s':>9}{'cpu s':>9}{'wall / bar':>12}{'cpu / bar':>11}{'peak MiB':>10}", file=sys.stderr)
    met = True
    for name, each in found["turns"].items():
        print(f"{name:20}{each['wall']:9.2f}{each['cpu']:9.2f}{each['wall_ratio']:12.2f}{each['cpu_ratio']:11.2f}"
              f"{each['peak'] / 2**20:10.0f}", file=sys.stderr)
        if name.startswith("to "):
            met = met and each["wall_ratio"] <= BAR and each["peak"] <= limit
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1G", help="of the checkpoint, such as 256M, 1G (default) or 4G")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    arguments = parser.parse_args()
    nbytes = int(float(arguments.size[:-1]) * UNITS[arguments.size[-1].upper()])
    with tempfile.TemporaryDirectory(prefix="danqing-bench-", dir=arguments.folder) as scratch:
        found = measure(Path(scratch), nbytes, arguments.rounds)
    met = report(found)
    print(json.dumps(found))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
