#!/usr/bin/env python3
"""The service under load: throughput and latency at several numbers of clients, with batching and without, in one run.

Each client asks for one picture, waits for it, and asks again, over a connection that it keeps. Without batching
(``--batch 1`` of the service) everything else is the same, so the ratio is what batching gives. A long run:

    tools/bench_serve.py --clients 64 --requests 10000 --rounds 1 --only-batching
    tools/bench_serve.py --clients 64 --requests 10000 --rounds 1 --only-batching --queue 8

Prints a table and a line of JSON. Machines are noisy: with ``--rounds`` the two services take turns, and medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "tests" / "golden" / "easynlp" / "painter_tiny" / "checkpoint"
PROMPTS = ("宽松T恤", "红色连衣裙", "远山与湖水", "一只小猫", "木桌上的茶具")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="what to serve (default: the small model inside, else the tests' painter)")
    parser.add_argument("--clients", default="1,8,64", help="numbers of clients (default: 1,8,64)")
    parser.add_argument("--requests", type=int, default=192, help="requests of each round (default: 192)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each service in turn (default: 3)")
    parser.add_argument("--batch", type=int, default=8, help="pictures drawn together (default: 8)")
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only-batching", action="store_true", help="leave out the service without batching")
    return parser.parse_args()


class Server:
    """A service in a process of its own."""

    def __init__(self, model: str, batch: int, args: argparse.Namespace) -> None:
        words = [sys.executable, "-m", "danqing", "serve", model, "--port", "0", "--quiet", "--batch", str(batch),
                 "--queue", str(args.queue), "--device", args.device]
        path = os.pathsep.join([str(ROOT / "plugin"), str(ROOT / "packaging"), os.environ.get("PYTHONPATH", "")])
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            words, stderr=self.log, env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"})
        while not (found := re.search(r"Listening on http://([\d.]+):(\d+)", self.said())):
            self.alive()
            time.sleep(0.1)
        self.host, self.port = found[1], int(found[2])
        while "Ready after" not in self.said():
            self.alive()
            time.sleep(0.1)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def alive(self) -> None:
        if self.process.poll() is not None:
            sys.exit(f"The service has ended:\n{self.said()}")

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.host}:{self.port}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


async def client(server: Server, seeds: list[int], seconds: list[float], statuses: Counter[int]) -> None:
    """Asks while there are seeds left."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    while seeds:
        seed = seeds.pop()
        body = json.dumps({"text": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_images": 1}).encode()
        start = time.perf_counter()
        writer.write(b"POST /api/predict/bench HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        reply = await reader.readexactly(length)
        status = int(head.split()[1])
        statuses[status] += 1
        if status == 200:
            seconds.append(time.perf_counter() - start)
            assert b'"success": true' in reply
    writer.close()


async def drive(server: Server, clients: int, requests: int) -> dict[str, Any]:
    """One round."""
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    seeds = list(range(requests))
    memory, start = server.metric("process_resident_memory_bytes"), time.perf_counter()
    await asyncio.gather(*(client(server, seeds, seconds, statuses) for _ in range(clients)))
    took = time.perf_counter() - start
    cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {"rate": statuses[200] / took, "p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "statuses": dict(statuses),
            "memory growth MB": (server.metric("process_resident_memory_bytes") - memory) / 1e6}


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each number over the rounds; statuses added up, memory as it grew in all of them."""
    total: Counter[int] = Counter()
    for each in rounds:
        total.update(each["statuses"])
    numbers = {name: median(each[name] for each in rounds) for name in ("rate", "p50", "p95", "p99")}
    return {**numbers, "statuses": dict(total), "memory growth MB": sum(each["memory growth MB"] for each in rounds)}


def model_of(name: str | None) -> str:
    if name is not None:
        return name
    sys.path[:0] = [str(ROOT / "plugin"), str(ROOT / "packaging")]
    from danqing import mini

    inside = getattr(mini, "CHECKPOINT", None)
    return str(inside if inside is not None and Path(inside).exists() else STAND_IN)


def main() -> None:
    """Measure and print."""
    args = arguments()
    model, counts = model_of(args.model), [int(each) for each in args.clients.split(",")]
    batches = [args.batch] if args.only_batching else [args.batch, 1]
    servers = {batch: Server(model, batch, args) for batch in batches}
    results = []
    print(f"{'clients':>7} {'batching':>8} {'pictures/s':>10} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7}  statuses")
    for clients in counts:
        rounds: dict[int, list[dict[str, Any]]] = {batch: [] for batch in batches}
        for _ in range(args.rounds):
            for batch, server in servers.items():
                rounds[batch].append(asyncio.run(drive(server, clients, args.requests)))
        for batch in batches:
            found = {"clients": clients, "batching": batch, **middle(rounds[batch])}
            print(f"{clients:>7} {batch if batch > 1 else 'off':>8} {found['rate']:>10.2f} {found['p50']:>7.3f} "
                  f"{found['p95']:>7.3f} {found['p99']:>7.3f}  {found['statuses']}", flush=True)
            results.append(found)
        if len(batches) == 2:
            ratio = results[-2]["rate"] / results[-1]["rate"]
            results[-2]["ratio"] = ratio
            print(f"{clients:>7} {'ratio':>8} {ratio:>10.2f}", flush=True)
    for server in servers.values():
        server.alive()
    ends = [server.stop() for server in servers.values()]
    print(json.dumps({"model": Path(model).name, "queue": args.queue, "requests": args.requests, "rounds": args.rounds,
                      "results": results, "exit": ends}))


if __name__ == "__main__":
    main()
