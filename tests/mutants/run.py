#!/usr/bin/env python3
# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Applies each mutant to a copy of the tree and reports those that no test notices (README.md)."""

import argparse
import concurrent.futures
import datetime
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIELDS = ("file", "old", "new", "red")
FLAGS = ["-std=c++20", "-O1", "-w", "-pthread", "-isystem", "/usr/include/eigen3"]


def read_mutants(path):
    """The blocks of one list, each a dictionary of FIELDS plus `name`."""
    blocks, block, field = [], {}, None

    def close():
        nonlocal block, field
        if block:
            missing = [f for f in FIELDS if f not in block]
            if missing:
                sys.exit(f"{path.name}: a block without {', '.join(missing)}: {block}")
            block["name"] = f"{path.stem} {len(blocks) + 1}"
            blocks.append(block)
        block, field = {}, None

    for line in path.read_text().splitlines():
        key, colon, rest = line.partition(":")
        if colon and key in FIELDS:
            if key == "file" and "red" in block:
                close()
            block[key], field = rest[1:] if rest.startswith(" ") else rest, key
        elif field in ("old", "new"):
            block[field] += "\n" + line
        elif not line.strip():
            close()
        elif not line.startswith("#"):
            sys.exit(f"{path.name}: cannot read '{line}'")
    close()
    for block in blocks:
        block["old"], block["new"] = block["old"].rstrip(), block["new"].rstrip()
    return blocks


def libraries():
    found = subprocess.run(["pkg-config", "--libs", "libpcre2-8", "libutf8proc"],
                           capture_output=True, text=True)
    return found.stdout.split() if found.returncode == 0 else []


def compile_command(compiler, tree, source, output, *more):
    return [compiler, *FLAGS, f'-DBISUP_SOURCE_DIR="{ROOT}"', f"-I{tree}/include", f"-I{tree}/tests",
            str(source), *more, "-o", str(output)]


def place(mutant, tree):
    """The test's source and the name of its case."""
    test, _, case = (part.strip() for part in mutant["red"].partition(" : "))
    folder, _, header = test.partition("/")
    return tree / "tests" / folder / f"{header}_test.cpp", case


def unfit(mutant, tree):
    """Why it cannot be applied, or None: sources move on and leave mutants behind."""
    target = tree / mutant["file"]
    found = target.read_text().count(mutant["old"]) if target.exists() else 0
    if found != 1:
        return f"'old' occurs {found} times in {mutant['file']}"
    source, case = place(mutant, tree)
    if not source.exists() or case.replace("*", "") not in source.read_text():
        return f"no test {mutant['red']}"
    return None


def verdict(mutant, tree, compiler, main_object, linked):
    """'red', or why not."""
    if why := unfit(mutant, tree):
        return why
    source, case = place(mutant, tree)
    target = tree / mutant["file"]
    text = target.read_text()
    target.write_text(text.replace(mutant["old"], mutant["new"]))
    program = tree / "mutant"
    try:
        built = subprocess.run(compile_command(compiler, tree, source, program, main_object, *linked),
                               capture_output=True, text=True)
        if built.returncode != 0:
            ours = re.search(r"static assertion|static_assert|constraint|concept", built.stderr)
            return "red" if ours else "does not compile: " + built.stderr.strip()[:300]
        # The default reporter names failures; a crash ends with a signal and a summary as well.
        ran = subprocess.run([str(program), *([case] if case else [])], capture_output=True,
                             text=True, errors="replace", timeout=120, cwd=tree)
        if ran.returncode == 0:
            return "survived"
        if "No test cases matched" in ran.stdout or "No tests ran" in ran.stdout:
            return f"no test case '{case}'"
        return "red"
    except subprocess.TimeoutExpired:
        return "red"
    finally:
        target.write_text(text)


def runs_here(mutant):
    """Whether this machine runs the kernels that the mutant changes: its tests skip those of others."""
    try:
        known = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    needs = {"/avx512/": "avx512_vnni", "/avx_vnni/": "avx_vnni", "/neon/": "asimddp"}
    return all(flag in known.split() for folder, flag in needs.items() if folder in mutant["file"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", nargs="*", help="names of lists, without .txt; default: all")
    parser.add_argument("--sample", type=int, help="only so many, chosen by the date")
    parser.add_argument("--seconds", type=float, default=1e9, help="start none after so long")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="only whether each has its text and its test")
    options = parser.parse_args()

    here = pathlib.Path(__file__).parent
    paths = [here / f"{name}.txt" for name in options.lists] or sorted(here.glob("*.txt"))
    mutants = [mutant for path in paths for mutant in read_mutants(path)]
    total = len(mutants)
    if options.check:
        rotten = [f"{mutant['name']}: {why}" for mutant in mutants if (why := unfit(mutant, ROOT))]
        sys.exit("\n".join(rotten) if rotten else 0)
    mutants = [mutant for mutant in mutants if runs_here(mutant)]
    if options.sample is not None and options.sample < len(mutants):
        mutants = random.Random(datetime.date.today().isoformat()).sample(mutants, options.sample)

    started = time.monotonic()
    linked = libraries()
    survivors = []
    with tempfile.TemporaryDirectory(prefix="bisup-mutants-") as folder:
        trees = queue.Queue()
        for job in range(options.jobs):
            tree = pathlib.Path(folder) / str(job)
            for part in ("include", "tests", "examples", "docs", "cmake"):
                if (ROOT / part).exists():
                    shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("build"))
            trees.put(tree)
        main_object = pathlib.Path(folder) / "test_main.o"
        subprocess.run(compile_command(options.compiler, ROOT, ROOT / "tests/test_main.cpp",
                                       main_object, "-c"), check=True)

        def judge(mutant):
            if time.monotonic() - started > options.seconds:
                return None
            tree = trees.get()
            try:
                return verdict(mutant, tree, options.compiler, main_object, linked)
            finally:
                trees.put(tree)

        judged = 0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for mutant, result in zip(mutants, pool.map(judge, mutants)):
                if result is None:
                    continue
                judged += 1
                if result != "red":
                    survivors.append(mutant)
                    print(f"{mutant['name']}: {result}\n  {mutant['file']}: {mutant['old']!r} -> "
                          f"{mutant['new']!r}, expected red: {mutant['red']}", flush=True)
    print(f"mutants: {judged - len(survivors)} red, {len(survivors)} not, of {total} listed "
          f"({time.monotonic() - started:.0f} s)")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
