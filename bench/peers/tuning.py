# SPDX-License-Identifier: Apache-2.0
"""Is a step of tuning faster than the same step in PyTorch's autograd? Runs both in turns and prints a table.

    python3 bench/peers/tuning.py --bench build/release/bin/bench_tune_block_gradient

One block of SmolLM2's size, forwards and backwards, as bench/tune/block_gradient_bench.cpp and
torch_tuning.py say; processor time, with one thread unless --threads says otherwise. The Python that
runs this needs torch.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = re.compile(r"(\w+)\s+(words|floats) .*, step ([\d.]+) ms")


def ours(options):
    done = subprocess.run([options.bench, str(options.tokens), str(options.threads), str(options.repeat)],
                          check=True, stdout=subprocess.PIPE, text=True)
    return {(mode, kind): float(step) for mode, kind, step in OURS.findall(done.stdout)}


def theirs(options):
    done = subprocess.run([sys.executable, os.path.join(HERE, "torch_tuning.py"), "--tokens", str(options.tokens),
                           "--threads", str(options.threads), "--repeat", str(options.repeat)],
                          check=True, stdout=subprocess.PIPE, text=True)
    return {found["mode"]: found for found in map(json.loads, done.stdout.splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bench", required=True, metavar="PROGRAM")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="steps of a round; their median counts")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [(ours(options), theirs(options)) for _ in range(options.rounds)]
    peer = next(iter(rounds[0][1].values()))
    print(f"{options.tokens} tokens, {options.threads} threads, {options.rounds} rounds; {peer['peer']}, {peer['cpu']}.\n")
    print("By `python3 bench/peers/tuning.py`:\n")
    print("| learned beside branches, clips and norms | multiplied in | bisup, ms | PyTorch, ms | ratio |")
    print("|---|---|---:|---:|---:|")
    what = {"all": "clips of weights", "frozen": "nothing", "scales": "scales of weights"}
    for mode, kind in rounds[0][0]:
        steps = [(mine[mode, kind], peer[mode]["step_ms"]) for mine, peer in rounds]
        mine, other = (statistics.median(pair[side] for pair in steps) for side in (0, 1))
        ratio = statistics.median(b / a for a, b in steps)
        print(f"| {what[mode]} | {kind} | {mine:.0f} | {other:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
