#!/usr/bin/env python3
"""How fast a table of images becomes an image folder and comes back, against the limit and a naive script.

    tools/bench_tables.py [--rows 2000] [--kilobytes 64] [--rounds 5] [--at DIR]

limit: writing the same files with no table and no decoding. naive: csv, base64.urlsafe_b64decode, open(), and back. All
run by turns in one process; shares are medians over the rounds of (limit's time / its own time), for the wall clock and
for processor time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import base64
import csv
import filecmp
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "packaging"))

from danqing_pack.table_conversion import to_folder, to_tsv

Timing = tuple[float, float]


def main() -> None:
    """Measure, print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at", type=Path, help="a folder to work in (default: the system's for temporary files)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.at, prefix="danqing-bench-") as folder:
        timings = measure(Path(folder), args.rows, args.kilobytes << 10, args.rounds)
    report(timings, args)


def measure(place: Path, rows: int, size: int, rounds: int) -> dict[str, list[Timing]]:
    """(wall, processor) seconds of each round."""
    table, folder, back = place / "table.tsv", place / "folder", place / "back.tsv"
    images = [b"\x89PNG\r\n\x1a\n" + os.urandom(size - 8) for _ in range(16)]
    with open(table, "wb") as file:
        for index in range(rows):
            file.write(f"{index}\t一只可爱的小狗 {index}\t".encode() + base64.b64encode(images[index % 16]) + b"\n")
    work: dict[str, Callable[[], object]] = {
        "limit": lambda: write_files(folder, images, rows),
        "naive to-folder": lambda: naive_to_folder(table, folder),
        "naive to-tsv": lambda: naive_to_tsv(folder, back),
        "danqing to-folder": lambda: to_folder(table, folder),
        "danqing to-tsv": lambda: to_tsv(folder, back),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            if name.endswith("to-tsv"):
                back.unlink(missing_ok=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            os.sync()
            wall, processor = time.perf_counter(), time.process_time()
            run()
            timings[name].append((time.perf_counter() - wall, time.process_time() - processor))
        if not filecmp.cmp(back, table, shallow=False):
            raise SystemExit("the table did not come back as it was")
    return timings


def write_files(folder: Path, images: list[bytes], rows: int) -> None:
    """The same files, with nothing to read and nothing to decode."""
    folder.mkdir()
    for index in range(rows):
        with open(f"{folder}/{index + 1:08d}.png", "wb", buffering=0) as file:
            file.write(images[index % len(images)])


def naive_to_folder(table: Path, folder: Path) -> None:
    """What a script of a few lines does."""
    folder.mkdir()
    csv.field_size_limit(1 << 30)
    lines = open(table, newline="", encoding="utf-8")
    with lines as file, open(folder / "metadata.jsonl", "w", encoding="utf-8") as out:
        for number, (idx, text, image) in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            name = f"{number:08d}.png"
            with open(folder / name, "wb") as picture:
                picture.write(base64.urlsafe_b64decode(image))
            out.write(json.dumps({"idx": idx, "text": text, "file_name": name}, ensure_ascii=False) + "\n")


def naive_to_tsv(folder: Path, table: Path) -> None:
    """And back."""
    lines = open(folder / "metadata.jsonl", encoding="utf-8")
    with lines as file, open(table, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        for record in map(json.loads, file):
            image = base64.b64encode((folder / record["file_name"]).read_bytes()).decode()
            writer.writerow([record["idx"], record["text"], image])


def report(timings: dict[str, list[Timing]], args: argparse.Namespace) -> None:
    """A table, then one line of JSON."""
    megabytes = args.rows * args.kilobytes * 1024 / 1e6
    limit, result = timings["limit"], {}
    print(f"{args.rows} images of {args.kilobytes} KiB, {args.rounds} rounds; medians; MB are bytes of images")
    print(f"{'':20}{'MB/s':>8}{'share of limit':>16}{'CPU MB/s':>10}{'share of limit':>16}")
    for name, rounds in timings.items():
        wall, processor = (statistics.median(each[i] for each in rounds) for i in (0, 1))
        pairs = list(zip(limit, rounds, strict=True))
        shares = [statistics.median(base[i] / each[i] for base, each in pairs) for i in (0, 1)]
        print(f"{name:20}{megabytes / wall:8.0f}{shares[0]:15.2f}x{megabytes / processor:10.0f}{shares[1]:15.2f}x")
        result[name] = {"mb_per_s": round(megabytes / wall), "share_of_limit": round(shares[0], 3),
                        "cpu_mb_per_s": round(megabytes / processor), "cpu_share_of_limit": round(shares[1], 3)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"bench": "tables", "rows": args.rows, "kilobytes": args.kilobytes, "max_rss_mb": peak, **result}))


if __name__ == "__main__":
    main()
