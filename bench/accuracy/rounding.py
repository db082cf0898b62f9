# SPDX-License-Identifier: Apache-2.0
"""How far apart are two computations of one quantized model that differ in last bits? Prints a table.

    python3 bench/accuracy/rounding.py --text TEST.txt MODEL.safetensors...

Half the gains of its norms move by one unit in the last place, 2^-23 of each at most, and the perplexity
is taken again: an addition in another order changes about as much, so two correct implementations need
not agree better than such copies do. `--simulate` adds the simulation of the unchanged model.
"""

import argparse
import array
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import rows


def move_last_bits(source, target, seed):
    """A copy of an artefact in which half the gains of its norms, drawn by `seed`, are a last bit larger."""
    draw = random.Random(seed)
    shutil.copyfile(source, target)
    with open(target, "r+b") as file:
        size, = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(size))
        norms = [tensor for name, tensor in tensors.items() if name.endswith("norm.weight")]
        if not norms or any(norm["dtype"] != "F32" for norm in norms):
            sys.exit(f"{source}: has no norms in F32")
        for norm in norms:
            begin, end = norm["data_offsets"]
            file.seek(8 + size + begin)
            words = array.array("I", file.read(end - begin))
            file.seek(8 + size + begin)
            file.write(array.array("I", [word + draw.getrandbits(1) for word in words]).tobytes())


def window_nll(options, path, *more):
    done = subprocess.run(
        [options.bisup, "perplexity", path, "--text", options.text, "--context", str(options.context),
         "--windows", str(options.windows), "--json", *more], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["window_nll"]


def shown(values, base):
    """Mean difference of NLL with its standard error, and what a single window differs by (RMS)."""
    differences = [a - b for a, b in zip(values, base)]
    rms = math.sqrt(sum(d * d for d in differences) / len(differences))
    return f"{rows.with_error(*rows.mean_and_error(differences))} | {rms:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="+", metavar="MODEL.safetensors")
    parser.add_argument("--text", required=True)
    parser.add_argument("--bisup", default=os.path.join(rows.ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--copies", type=int, default=2, help="copies of each model, each with other bits moved")
    parser.add_argument("--simulate", action="store_true", help="also the simulation of the model as it is")
    options = parser.parse_args()
    print("| model | against the packed model | mean difference, nats | RMS of a window |")
    print("|---|---|---:|---:|")
    for model in options.models:
        name = os.path.basename(model).removesuffix(".safetensors")
        packed = window_nll(options, model)
        if options.simulate:
            print(f"| {name} | simulated | {shown(window_nll(options, model, '--simulate'), packed)} |", flush=True)
        for copy in range(options.copies):
            with tempfile.TemporaryDirectory(prefix="bisup-rounding-") as folder:
                moved = os.path.join(folder, "moved.safetensors")
                move_last_bits(model, moved, copy)
                print(f"| {name} | last bits moved, {copy + 1} | {shown(window_nll(options, moved), packed)} |",
                      flush=True)


if __name__ == "__main__":
    main()
