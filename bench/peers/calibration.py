# SPDX-License-Identifier: Apache-2.0
"""Is calibration as right and faster than the same recipe in PyTorch? Runs both, block by block.

    python bench/peers/calibration.py --model SmolLM2-135M-Instruct.Q4_1.gguf --calib CALIB.txt

Both quantize the first --layers blocks on the same crops with the papers' clips, carry the same held-out
crops along, in turns, --repeat times. Prints a table: the median ratio of the seconds a block, and how far
the losses |F_q(X_q) - F(X)|^2 / |F(X)|^2 of the blocks are from each other, on the crops and on those held
out. torch_recipe.py is the peer; it needs torch and gguf in the Python that runs this.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CLIPS = {"rtn": ("1", "1"), "gptq": ("1", "1"), "atom": ("0.9", "1"), "quarot": ("0.9", "0.95")}


class Philox:
    """Philox-4x32-10 (Salmon et al. 2011), as core/random.hpp counts it."""

    def __init__(self, seed, stream):
        self.key, self.stream, self.counter, self.block = (seed & 0xffffffff, seed >> 32), stream, 0, []

    def bits(self):
        if not self.block:
            c = [self.counter & 0xffffffff, self.counter >> 32, self.stream, 0]
            k0, k1 = self.key
            for _ in range(10):
                p0, p1 = 0xd2511f53 * c[0], 0xcd9e8d57 * c[2]
                c = [p1 >> 32 ^ c[1] ^ k0, p1 & 0xffffffff, p0 >> 32 ^ c[3] ^ k1, p0 & 0xffffffff]
                k0, k1 = (k0 + 0x9e3779b9) & 0xffffffff, (k1 + 0xbb67ae85) & 0xffffffff
            self.counter, self.block = self.counter + 1, c
        return self.block.pop(0)

    def below(self, bound):
        product, threshold = self.bits() * bound, (2**32 - bound) % bound
        while product & 0xffffffff < threshold:
            product = self.bits() * bound
        return product >> 32


def crops_of(options):
    """Those that `bisup quantize` cuts: calibrate/samples.hpp."""
    told = subprocess.run([options.bisup, "tokenize", options.model, "--file", options.calib, "--json"],
                          check=True, stdout=subprocess.PIPE)
    ids = json.loads(told.stdout)["ids"]
    held = int(0.15 * len(ids))

    def cut(text, count, length, stream):
        random, places, crops = Philox(options.seed, stream), len(text) - length + 1, []
        phase = random.below(places)
        for i in range(count):
            place, other = (i * places + phase) // count, random.below(i + 1)
            crops.append(text[place:place + length])
            crops[i], crops[other] = crops[other], crops[i]
        return crops

    return {"crops": cut(ids[:len(ids) - held], options.samples, options.length, 0),
            "held_out": cut(ids[len(ids) - held:], min(max(options.samples // 6, 1), 8), min(options.length, held), 1)}


def ours(options, recipe, folder):
    """Stopped when enough blocks are finished."""
    activations, cache = CLIPS[recipe]
    work = os.path.join(folder, "work")
    log = os.path.join(work, "log.jsonl")
    process = subprocess.Popen(
        [options.bisup, "quantize", options.model, "--method", recipe, "--scheme", options.scheme,
         "--calib", options.calib, "--calib-samples", str(options.samples), "--calib-length",
         str(options.length), "--seed", str(options.seed), "--act-clip", activations, "--kv-clip", cache,
         "--work", work, "--threads", str(options.threads), "-o", os.path.join(folder, "out.safetensors")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    layers = []
    while len(layers) < options.layers and process.poll() is None:
        time.sleep(0.2)
        if os.path.exists(log):
            with open(log, encoding="utf-8") as file:
                layers = [json.loads(line) for line in file if line.endswith("\n")]
    process.kill()
    errors = process.communicate()[1].decode(errors="replace")
    if len(layers) < options.layers:
        sys.exit("calibration: bisup stopped early\n" + errors[-2000:])
    return layers[:options.layers]


def theirs(options, recipe, crops):
    activations, cache = CLIPS[recipe]
    bits = options.scheme.split("-")[0]
    weights, rest = bits[1:].split("A")
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "torch_recipe.py"), options.model, "--tokens", crops, "--recipe",
         recipe, "--layers", str(options.layers), "--threads", str(options.threads), "--weight-bits", weights,
         "--act-bits", rest.split("KV")[0], "--kv-bits", rest.split("KV")[1], "--group",
         options.scheme.split("-g")[1].split("-")[0], "--act-clip", activations, "--kv-clip", cache, "--seeds",
         str(options.seed), "--stage-activations", "rounded", "--rows-keep-nearest"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--bisup", default=os.path.join(ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--recipes", default="atom,quarot")
    parser.add_argument("--scheme", default="W4A4KV4-g64")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    lines, peer = [], ""
    with tempfile.TemporaryDirectory() as folder:
        crops = os.path.join(folder, "crops.json")
        with open(crops, "w", encoding="utf-8") as file:
            json.dump(crops_of(options), file)
        for recipe in options.recipes.split(","):
            rounds = []
            for i in range(options.repeat):
                print(f"{recipe}, round {i + 1} of {options.repeat}", file=sys.stderr)
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    rounds.append((ours(options, recipe, own), theirs(options, recipe, crops)))
            our_seconds = [sum(layer["seconds"] for layer in a) / options.layers for a, _ in rounds]
            their_seconds = [sum(layer["seconds"] for layer in b["layers"]) / options.layers for _, b in rounds]
            ratio = statistics.median(b / a for a, b in zip(our_seconds, their_seconds))
            worst = [max(abs(a[loss] / b[loss] - 1) for a, b in zip(rounds[0][0], rounds[0][1]["layers"]))
                     for loss in ("loss", "held_out_loss")]
            peer = rounds[0][1]["peer"]
            lines.append(f"| {recipe} | {statistics.median(our_seconds):.2f} s | "
                         f"{statistics.median(their_seconds):.2f} s | {ratio:.2f}\u00d7 | "
                         f"{min(b / a for a, b in zip(our_seconds, their_seconds)):.2f} to "
                         f"{max(b / a for a, b in zip(our_seconds, their_seconds)):.2f} | {100 * worst[0]:.2f} %, "
                         f"{100 * worst[1]:.2f} % |")
    print(f"{options.scheme}, {options.samples} crops of {options.length} tokens, the first {options.layers} "
          f"blocks, {options.threads} threads, {options.repeat} rounds in turns; peer: {peer}.\n")
    print("| recipe | bisup, a block | PyTorch, a block | ratio | of the rounds | losses differ by at most, and held out |")
    print("|---|---:|---:|---:|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
