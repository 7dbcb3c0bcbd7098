#!/usr/bin/env python3
"""Writing image codes: Danqing's decoder against the loop of the original, which recomputes every token at each step.

Weights are random, decoding is greedy, both read the same weights. Ours writes whole images. The original is timed at
``--steps`` of the 256 places, spread evenly, after the very codes that ours wrote; its time for an image is their mean
times 256, an extrapolation unless all places are taken (``--steps 256``). At each of these places the two must
choose the same code. Ratios belong to one run on one machine: repeat them before you believe them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path[:0] = [str(Path(__file__).parents[1] / source) for source in ("plugin", "packaging")]

import torch  # noqa: E402
from danqing.networks.decoding import decoder_of, write_codes  # noqa: E402
from danqing.networks.painter_transformer import PainterConfig, PainterTransformer  # noqa: E402
from danqing.networks.sampling import Sampling  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

SIZES = {"base": (12, 12, 768), "large": (24, 16, 1024), "tiny": (2, 4, 64)}


@torch.no_grad()
def original(network: PainterTransformer, tokens: Tensor) -> Tensor:
    """Scores [B, V] by way of all positions: separate q, k, v, a materialised mask, the head everywhere."""
    gpt, head = cast(Any, network.gpt), cast(Any, network.head)
    heads, (batch, length) = network.config.n_head, tokens.shape
    states = gpt.wte(tokens) + gpt.wpe.weight[:length]
    past = torch.tril(torch.ones(length, length, dtype=torch.bool, device=tokens.device))
    for block in gpt.h:
        normed, attn = block.ln_1(states), block.attn
        parts = zip(attn.c_attn.weight.T.chunk(3), attn.c_attn.bias.chunk(3), strict=True)
        query, key, value = (F.linear(normed, w, b).view(batch, length, heads, -1).transpose(1, 2) for w, b in parts)
        products = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
        seen = products.masked_fill(~past, -torch.inf).softmax(dim=-1) @ value
        states = states + attn.c_proj(seen.transpose(1, 2).reshape(batch, length, -1))
        states = states + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(states))))
    scores: Tensor = head(gpt.ln_f(states))
    return scores[:, -1]


@torch.no_grad()
def stepped(network: PainterTransformer, tokens: Tensor) -> Tensor:
    """The same scores, the last token taken as a decode step."""
    decoder, place = decoder_of(network), tokens.shape[1] - 1
    with decoder.run(len(tokens), tokens.device) as (room, step):
        decoder.read(tokens[:, :place], room)
        return step(tokens[:, place], place).clone()


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float, float]:
    """What ``call`` gives, with its seconds of wall clock and of processor."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - wall, time.process_time() - processor


def measure(network: PainterTransformer, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    config, device = network.config, network.device
    text = torch.randint(config.image_vocab_size, config.vocab_size, (batch, config.text_length), device=device)
    greedy = Sampling(do_sample=False)

    def write() -> Tensor:
        return write_codes(network, text, greedy, torch.empty(0))

    codes, first, _ = timed(write, device)
    sequence = torch.cat((text, codes), dim=1)
    step = max(1, config.image_length // steps)
    places = list(range(config.text_length + step // 2, sequence.shape[1], step))
    original(network, sequence)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    equal, apart = True, 0.0
    for number, place in enumerate(places):
        if number % max(1, len(places) // rounds) == 0:
            ours.append(timed(write, device)[1:])
        scores, *seconds = timed(partial(original, network, sequence[:, :place]), device)
        theirs.append((seconds[0], seconds[1]))
        equal &= torch.equal(scores.argmax(-1), sequence[:, place])
        apart = max(apart, (scores - stepped(network, sequence[:, :place])).abs().max().item())
    wall, processor = (median(each) for each in zip(*ours, strict=True))
    old_wall, old_processor = (mean(each) * config.image_length for each in zip(*theirs, strict=True))
    return {
        "batch": batch, "places": len(places), "extrapolated": len(places) < config.image_length,
        "first_call_s": first, "ours_s_per_image": wall / batch, "original_s_per_image": old_wall / batch,
        "ratio": old_wall / wall, "processor_ratio": old_processor / processor,
        "ms_per_step": wall / config.image_length * 1e3, "codes_equal": equal, "largest_score_difference": apart,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=16, help="places at which the original is timed (at most 256)")
    parser.add_argument("--rounds", type=int, default=3, help="whole runs of ours, spread between those places")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda, float32 on cpu")
    args = parser.parse_args()
    dtype = args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layers, heads, width = SIZES[args.size]
    network = PainterTransformer(PainterConfig(n_layer=layers, n_head=heads, n_embd=width))
    network = network.to(args.device, getattr(torch, dtype)).eval()
    print(f"{args.size}, {dtype}, {args.device}, {args.threads} threads, torch {torch.__version__}")
    print("batch  original s/image  ours s/image   ratio  (processor)  ms/step  codes equal  largest score difference")
    rows = []
    for batch in args.batch:
        row = measure(network, batch, args.steps, args.rounds)
        rows.append(row)
        print(
            f"{batch:5d}  {row['original_s_per_image']:16.2f}  {row['ours_s_per_image']:12.3f}  {row['ratio']:5.1f}x"
            f"  {row['processor_ratio']:9.1f}x  {row['ms_per_step']:7.2f}  {row['codes_equal']!s:>11}"
            f"  {row['largest_score_difference']:.1e}"
            + (f"  (original from {row['places']} of 256 places)" if row["extrapolated"] else "")
        )
    print(json.dumps({"size": args.size, "dtype": dtype, "device": args.device, "threads": args.threads, "rows": rows}))


if __name__ == "__main__":
    main()
