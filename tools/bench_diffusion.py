#!/usr/bin/env python3
"""Stock diffusers against its speed-ups, on one device, in one run: full SD-1.x size, random weights.

    tools/bench_diffusion.py                                    # what pays here: plain, each speed-up alone, --fast
    tools/bench_diffusion.py --only plain-half fast --batch 4   # on cuda: 20 steps at 512 x 512
    tools/bench_diffusion.py --part unet --rounds 1             # one evaluation, where a whole image takes minutes

Each variant runs in a process of its own, so that its peak memory is its own; the order is as printed, twice with
``--interleave``. Times are the median of the rounds after a warm-up, which is given apart: it holds the compilation.
``ratio`` is to the first row: of seconds on cuda, of processor seconds on a CPU, which a busy machine distorts less.
One JSON line follows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / source) for source in ("plugin", "packaging")]

CPU = ("plain", "channels-last", "fused-qkv", "bf16", "bf16-channels-last", "fast")
CUDA = ("plain-half", "plain", "half-channels-last", "half-fused-qkv", "half-graphs", "half-regional", "fast",
        "fast-max")


def speedups(name: str) -> Any:
    """The set that a row's name stands for; None where the device decides."""
    import torch
    from danqing.adapters.acceleration import Speedups

    if name.startswith("fast"):
        return None
    half = torch.bfloat16 if "bf16" in name else torch.float16 if "half" in name else None
    return Speedups(half, channels_last="channels-last" in name, fused_qkv="fused-qkv" in name, graphs="graphs" in name,
                    compiled="regional" if "regional" in name else "")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One variant: seconds of warm-up and of each round, peak memory in GB."""
    import torch
    from danqing.adapters.acceleration import accelerate
    from danqing.building import build
    from danqing.quiet import quiet_libraries
    from danqing_pack.random_checkpoints import MAKERS

    with quiet_libraries():
        pipe: Any = build(MAKERS["pai-diffusion"](args.size == "full"), torch.float32).to(args.device)
        chosen = accelerate(pipe, speedups(args.variant), "max" if args.variant == "fast-max" else "quick")
        pipe.set_progress_bar_config(disable=True)
        work = unet_step(pipe, args) if args.part == "unet" else image(pipe, args)
        with torch.inference_mode():
            warm_up, _ = timed(work, args.device)
            rounds = [timed(work, args.device) for _ in range(args.rounds)]
    peak = torch.cuda.max_memory_allocated() if args.device != "cpu" else resource.getrusage(
        resource.RUSAGE_SELF).ru_maxrss * 1024
    what = "as it is" if args.variant == "plain" else str(chosen)
    return {"variant": args.variant, "what": what, "warm_up": warm_up, "peak_gb": peak / 1e9,
            "rounds": [wall for wall, _ in rounds], "processor": [processor for _, processor in rounds]}


def image(pipe: Any, args: argparse.Namespace) -> Any:
    """A whole call, text to pixels, with guidance."""
    side = args.side or pipe.unet.config.sample_size * pipe.vae_scale_factor
    prompts = ["一只小奶猫在草地上玩耍"] * args.batch
    return lambda: pipe(prompts, num_inference_steps=args.steps, height=side, width=side, output_type="pil")


def unet_step(pipe: Any, args: argparse.Namespace) -> Any:
    """One evaluation of the UNet, ``batch`` latents at once."""
    import torch

    side = args.side // pipe.vae_scale_factor if args.side else pipe.unet.config.sample_size
    kind = {"dtype": pipe.unet.dtype, "device": args.device}
    latents = torch.zeros(args.batch, 4, side, side, **kind)
    context = torch.zeros(args.batch, 32, pipe.unet.config.cross_attention_dim, **kind)
    step = torch.tensor(501, device=args.device)
    return lambda: pipe.unet(latents, step, encoder_hidden_states=context, return_dict=False)


def timed(work: Any, device: str) -> tuple[float, float]:
    """Seconds of wall clock and of processor."""
    import torch

    start = time.perf_counter(), time.process_time()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def in_a_process(variant: str, words: list[str]) -> dict[str, Any]:
    """The same program for one variant; its last line is the result."""
    done = subprocess.run([sys.executable, __file__, *words, "--variant", variant], capture_output=True, text=True)
    if done.returncode:
        return {"variant": variant, "what": (done.stderr.strip().splitlines() or ["failed"])[-1][:60], "rounds": []}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def report(results: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """The table, and one JSON line."""
    heads = f"{'seconds':>9} {'cpu s':>9} {'images/s':>9} {'warm-up s':>10} {'peak GB':>8} {'ratio':>6}"
    print(f"{'variant':20} {heads}  what")
    base = None
    for row in results:
        if not row["rounds"]:
            print(f"{row['variant']:20} {'-':>9} {'-':>9} {'-':>9} {'-':>10} {'-':>8} {'-':>6}  {row['what']}")
            continue
        seconds, processor = median(row["rounds"]), median(row["processor"])
        cost = processor if args.device == "cpu" else seconds
        base = base or cost
        row |= {"seconds": seconds, "images_per_second": args.batch / seconds, "ratio": base / cost}
        print(f"{row['variant']:20} {seconds:9.3f} {processor:9.3f} {row['images_per_second']:9.3f} "
              f"{row['warm_up']:10.1f} {row['peak_gb']:8.2f} {row['ratio']:6.2f}  {row['what']}")
    asked = {name: getattr(args, name) for name in ("part", "device", "size", "steps", "batch")}
    print(json.dumps({**asked, "results": results}, ensure_ascii=False))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--part", choices=("image", "unet"), default="image")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, help="of the picture in pixels (default: the model's)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--interleave", action="store_true", help="go through the variants twice, for a busy machine")
    parser.add_argument("--only", nargs="+", metavar="VARIANT",
                        help=f"on cpu: {', '.join(CPU)}; on cuda: {', '.join(CUDA)}")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.variant:
        print(json.dumps(measure(args)))
        return 0
    words = ["--device", args.device, "--size", args.size, "--part", args.part, "--steps", str(args.steps), "--batch",
             str(args.batch), "--rounds", str(args.rounds), *(["--side", str(args.side)] if args.side else [])]
    names = args.only or (CPU if args.device == "cpu" else CUDA)
    results = [in_a_process(name, words) for name in names]
    if args.interleave:
        for row, again in zip(results, [in_a_process(name, words) for name in names], strict=True):
            row["rounds"] += again["rounds"]
            row["processor"] += again.get("processor", [])
    report(results, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
