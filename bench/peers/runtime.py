# SPDX-License-Identifier: Apache-2.0
"""What does the runtime take beside its arithmetic? Measures memory, the time to the first token, what drawing
tokens costs and what is left of two threads when another program spins on one of their cores, and writes the
second table of docs/performance.md.

    python3 bench/peers/runtime.py [--rounds 3]

Wants what bench/peers/run.sh made: build/peers with SmolLM2's artefact and the GGUF of random weights.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys

import speed

PROMPT, GENERATED = 512, 64


def spin(core, started):
    os.sched_setaffinity(0, {core})
    started.set()
    while True:
        pass


class Bench:
    def __init__(self, runner):
        self.runner = runner

    def run(self, file, prompt, generated, threads=2, depth=0):
        told = json.loads(self.runner.run(
            self.runner.options.bisup, "bench", file, "-p", str(prompt), "-n", str(generated), "-d", str(depth),
            "-t", str(threads), "-r", "1", "--json"))
        return told, told["results"][0]

    def memory(self, file):
        """MB of the process beyond the artefact and the cache."""
        told, result = self.run(file, 0, GENERATED, depth=PROMPT)
        return (told["peak_memory_bytes"] - os.path.getsize(file) - result["cache_bytes"]) / 1e6

    def start(self, file):
        """Seconds to the first token behind a prompt, beyond a prefill of the same length that is warm."""
        told, result = self.run(file, PROMPT, 0)
        return told["load_seconds"] + result["first_seconds"] - PROMPT / result["avg_ts"]

    def sampled(self, file):
        """The share of greedy decoding's speed that is left where each token is drawn as `bisup chat` draws it."""
        def speed_of(*sampling):
            return json.loads(self.runner.run(
                self.runner.options.bisup, "generate", file, "--prompt", "The history of", "-n", "256", *sampling,
                "--json"))["tokens_per_second"]
        return speed_of("--temperature", "0.7", "--top-p", "0.95") / speed_of()

    def disturbed(self, file, prompt, generated):
        """The share of two threads' speed that is left beside a program that spins on one core."""
        alone = self.run(file, prompt, generated)[1]["avg_ts"]
        started = multiprocessing.Event()
        other = multiprocessing.Process(target=spin, args=(min(os.sched_getaffinity(0)), started), daemon=True)
        other.start()
        started.wait()
        try:
            return self.run(file, prompt, generated)[1]["avg_ts"] / alone
        finally:
            other.kill()


def measure(options):
    runner = speed.Runner(options)
    bench = Bench(runner)
    small = runner.artefact("W4A8-g64-head8")
    large = runner.made("TinyLlama-W4A8-g32-head8.safetensors", lambda path: runner.run(
        options.bisup, "quantize", os.path.join(runner.folder, "tinyllama-f16.gguf"), "--scheme", "W4A8-g32-head8",
        "-o", path))
    size = f"{os.path.getsize(large) / 1e6:.0f} MB artefact"
    measured = [
        (f"memory beyond artefact and cache, {speed.SMOLLM2}, MB", "at most", 150, lambda: bench.memory(small)),
        (f"memory beyond artefact and cache, {size}, MB", "at most", 150, lambda: bench.memory(large)),
        (f"first token beyond the prefill itself, {size}, s", "at most", 0.5, lambda: bench.start(large)),
        ("decode where tokens are drawn (temperature .7, top-p .95), share of greedy", "at least", 0.95,
         lambda: bench.sampled(small)),
        ("prefill, two threads beside a program on one core, share of undisturbed", "at least", 0.45,
         lambda: bench.disturbed(small, PROMPT, 0)),
        ("decode, two threads beside a program on one core, share of undisturbed", "at least", 0.45,
         lambda: bench.disturbed(small, 0, GENERATED)),
    ]
    rounds = [[take() for *_, take in measured] for _ in range(options.rounds)]
    text = f"Measured on {speed.machine()}, median of {options.rounds} rounds.\n\n"
    text += "By `python3 bench/peers/runtime.py`:\n\n| | measured | to reach |\n|---|---:|---:|\n"
    for i, (what, side, limit, _) in enumerate(measured):
        value = statistics.median(row[i] for row in rounds)
        met = value <= limit if side == "at most" else value >= limit
        text += f"| {what} | {value:.2f} | {'' if met else '**missed** '}{side} {limit:g} |\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=os.path.expanduser("~/.cache/bisup/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--bisup", default=os.path.join(speed.ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--rounds", type=int, default=3)
    written = measure(parser.parse_args())
    path = os.path.join(speed.ROOT, "docs", "performance.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    text, found = re.subn(r"(<!-- runtime -->\n).*?(<!-- /runtime -->)",
                          lambda m: m.group(1) + written + m.group(2), text, flags=re.S)
    if not found:
        sys.exit(f"{path} has no place for this table")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(written)


if __name__ == "__main__":
    main()
