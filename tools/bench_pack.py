#!/usr/bin/env python3
"""Packing a checkpoint: Danqing's one pass (tar, gzip and sha256) against `tarfile` at its default level, 9.

Both write the same files, random weights of a trained network's spread, to the same disk, turn by turn; the best round
of each counts. `cpu` is processor seconds of all threads per wall second. Ratios belong to one run on one machine, and
the wall-clock ones to a machine with nothing else to do. A table goes to stderr, one line of JSON to stdout. Exits with
1 if the target is missed: 20 times faster and no larger.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "packaging"))

import numpy as np
from danqing_pack.archives import unpack_archive, write_archive
from danqing_pack.staging import staged_file

TARGET = 20


def checkpoint(folder: Path, megabytes: int, dtype: str) -> dict[str, Path]:
    """An EasyNLP folder of random weights; its files by name."""
    draw = np.random.default_rng(0)
    with open(folder / "pytorch_model.bin", "wb") as file:
        for _ in range(megabytes):
            weights = (draw.standard_normal((1 << 20) // np.dtype(dtype).itemsize, np.float32) * 0.02).astype(dtype)
            file.write(weights.tobytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "artist", "n_layer": 12, "n_embd": 768}, indent=2))
    (folder / "vocab.txt").write_text("".join(f"token{number}\n" for number in range(21128)))
    return {path.name: path for path in sorted(folder.iterdir())}


def ours(files: dict[str, Path], target: Path) -> None:
    """As `danqing pack` does it, digests included."""
    with staged_file(target, force=True) as staging:
        write_archive(staging, files, lambda digests: ("danqing.json", json.dumps(digests).encode()))


def theirs(files: dict[str, Path], target: Path) -> None:
    """As the documented command does it in Python."""
    with tarfile.open(target, "w:gz") as archive:
        for name, path in files.items():
            archive.add(path, name)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(megabytes: int, dtype: str, rounds: int) -> dict[str, Any]:
    """Both packers on one checkpoint; MB/s of content, sizes as a share of it, and unpacking for completeness."""
    with tempfile.TemporaryDirectory(prefix="danqing-bench-") as scratch:
        place = Path(scratch)
        (place / "model").mkdir()
        files = checkpoint(place / "model", megabytes, dtype)
        content = sum(path.stat().st_size for path in files.values())
        times: dict[str, list[tuple[float, float]]] = {"danqing": [], "tarfile": []}
        for _ in range(rounds):
            times["danqing"].append(timed(lambda: ours(files, place / "danqing.tar.gz")))
            times["tarfile"].append(timed(lambda: theirs(files, place / "tarfile.tar.gz")))
        (place / "out").mkdir()
        unpacking, _ = timed(lambda: unpack_archive(place / "danqing.tar.gz", place / "out"))
        best = {name: min(each) for name, each in times.items()}
        sizes = {name: (place / f"{name}.tar.gz").stat().st_size / content for name in best}
    return {
        "dtype": dtype, "megabytes": megabytes, "rounds": rounds,
        "mb_per_s": {name: round(content / 1e6 / wall, 1) for name, (wall, _) in best.items()},
        "cpu": {name: round(cpu / wall, 2) for name, (wall, cpu) in best.items()},
        "size": {name: round(size, 4) for name, size in sizes.items()},
        "times_faster": round(best["tarfile"][0] / best["danqing"][0], 1),
        "times_less_cpu": round(best["tarfile"][1] / best["danqing"][1], 1),
        "unpack_mb_per_s": round(content / 1e6 / unpacking, 1),
    }


def main() -> int:
    """Measure each dtype, print, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, metavar="MB", help="size of the weights (default: 64)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"], choices=("float32", "float16"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [compare(arguments.size, dtype, arguments.rounds) for dtype in arguments.dtypes]
    print(f"{'':10}{'danqing':>20}{'tarfile':>20}{'faster':>9}{'less cpu':>10}{'unpack':>13}", file=sys.stderr)
    for row in rows:
        cells = "".join(f"{row['mb_per_s'][name]:>8.0f} MB/s {row['size'][name]:.4f}" for name in row["size"])
        print(f"{row['dtype']:10}{cells}{row['times_faster']:>8.1f}x{row['times_less_cpu']:>9.1f}x"
              f"{row['unpack_mb_per_s']:>8.0f} MB/s", file=sys.stderr)
    print(json.dumps({"bench": "pack", "cores": len(os.sched_getaffinity(0)), "rows": rows}))
    return int(any(row["times_faster"] < TARGET or row["size"]["danqing"] > row["size"]["tarfile"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
