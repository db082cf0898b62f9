# SPDX-License-Identifier: Apache-2.0
"""Does a block take more instructions than it did? callgrind counts them, and no clock is read.

    python3 tests/instructions/count.py PROGRAM            compares with counts.txt
    python3 tests/instructions/count.py PROGRAM --write    makes counts.txt anew
    python3 tests/instructions/count.py --table            what recipes cost over plain rounding, by counts.txt

The target is avx2: valgrind knows no AVX-512. What is counted: block_instructions.cpp.
"""

import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile

COUNTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "counts.txt")
TOLERANCE = 0.03
SKIPPED = 77


def count(program):
    """Instructions by name, in the program's order."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--toggle-collect=measured", "--dump-after=measured",
             f"--callgrind-out-file={folder}/out", program],
            env={**os.environ, "BISUP_TARGET": "avx2"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            sys.exit(done.stderr.decode())
        names = done.stdout.decode().splitlines()
        counts = []
        for path in sorted(glob.glob(f"{folder}/out.*"), key=lambda path: int(path.rsplit(".", 1)[1])):
            with open(path, encoding="utf-8") as file:
                counts.append(int(re.search(r"^(?:totals|summary): (\d+)", file.read(), re.M).group(1)))
    if len(names) != len(counts) or min(counts, default=0) == 0:
        sys.exit(f"{len(names)} names, counts {counts}")
    return dict(zip(names, counts))


def kept():
    with open(COUNTS, encoding="utf-8") as file:
        lines = [line.rsplit(maxsplit=1) for line in file if not line.startswith("#")]
    return {name: int(number) for name, number in lines}


def table():
    counts = kept()
    rows = ["| added | prefill | decode |", "|---|---:|---:|"]
    for name in counts:
        scheme, *added, phase = name.split()
        if not added or phase != "prefill":
            continue
        costs = [counts[" ".join([scheme, *added, p])] / counts[f"{scheme} {p}"] - 1 for p in ("prefill", "decode")]
        rows.append(f"| {' '.join(added)} | " + " | ".join(f"{cost:+.1%}" for cost in costs) + " |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--table", action="store_true", help="print what recipes cost; nothing is run")
    parser.add_argument("--write", action="store_true", help="make counts.txt anew")
    options = parser.parse_args()
    if options.table:
        print(table())
        return 0
    if not options.program:
        parser.error("PROGRAM is missing")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        if not {"avx2", "fma"} <= set(file.read().split()):
            print("this processor has no AVX2")
            return SKIPPED
    found = count(options.program)
    if options.write:
        with open(COUNTS + ".part", "w", encoding="utf-8") as file:
            file.write("# Instructions of one block of SmolLM2-135M's shape, target avx2, g++ 12: prefill of 64 tokens,\n"
                       "# then one token. Made by tests/instructions/count.py PROGRAM --write.\n")
            file.writelines(f"{name:<32} {number}\n" for name, number in found.items())
        os.replace(COUNTS + ".part", COUNTS)
        return 0
    before = kept()
    wrong = [f"{name}: {found.get(name)} instructions, {before.get(name)} in counts.txt"
             + (f" ({found[name] / before[name] - 1:+.1%})" if name in found and name in before else "")
             for name in {**before, **found}
             if name not in found or name not in before or abs(found[name] / before[name] - 1) > TOLERANCE]
    if wrong:
        sys.exit("\n".join(wrong) + f"\nmore than {TOLERANCE:.0%} from what was written down; if it is meant, --write")
    return 0


if __name__ == "__main__":
    sys.exit(main())
