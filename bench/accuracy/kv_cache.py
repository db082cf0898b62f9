#!/usr/bin/env python3
# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""What does a small cache cost? Measures each policy on a text and writes docs/kv-cache.svg and the
table of docs/kv-cache.md.

    python3 bench/accuracy/kv_cache.py MODEL TEXT [--bisup build/release/bin/bisup] [--windows N]
        [--contexts 1024,2048] [--rows NAMES] [--search-text FILE] [--llama FOLDER] [--results FILE] [--no-measuring]

The model is compared with itself with a float cache, window by window; what the float cache computes is kept
and computed once. Results are kept in a file, so that a run that was stopped goes on; --rows
"KV4 fitted,searched" measures these alone and writes no document. --search-text chooses bits by layer on another
text (bisup quantize --kv-search 3), measures them on TEXT, and prints what part of the gaps of uniform 3 bits and of
K4V2 that saves. --llama names the folder that bash bench/peers/llama_cpp.sh prints: its quantized caches are measured
on the same windows against its own f16 cache. It scores the second half of each window, so ours is measured
that way as well, which is what the chart shows.
"""

import argparse
import json
import math
import os
import re
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXACT = ["--kv-sinks", "4", "--kv-recent", "64"]
ROTATED = EXACT + ["--kv-rotate"]
FITTED = ROTATED + ["--kv-fit"]
SIDES = {"KV8": ["--kv", "8"], "KV4": ["--kv", "4"], "K4V3": ["--kv-keys", "4", "--kv-values", "3"],
         "K4V2": ["--kv-keys", "4", "--kv-values", "2"], "KV3": ["--kv", "3"],
         "K3V2": ["--kv-keys", "3", "--kv-values", "2"], "KV2": ["--kv", "2"]}
KINDS = {"per token and head": [], "rotated, 4 + 64 exact": ROTATED, "fitted": FITTED}
PEER = {"q8_0": 8.5, "q4_0": 4.5}  # bits a number of llama.cpp's caches, scales counted
BESIDE_PEER = ("per token and head", "fitted")  # kinds that are measured as the peer is, too


COMMAND = "`python3 bench/accuracy/kv_cache.py MODEL TEXT`"


def ask(arguments, *options):
    done = subprocess.run([arguments.bisup, *options, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(" ".join(options) + " failed")
    return json.loads(done.stdout)


def searched_table(arguments):
    """Bits by layer, 3 on average: quantize writes them into an artefact, from whose header they are read."""
    name = f"kv_search_{arguments.search_windows}x{arguments.search_context}"
    table = os.path.join(os.path.dirname(arguments.results), name + ".json")
    if not os.path.exists(table):
        artefact = os.path.join(os.path.dirname(arguments.results), name + ".safetensors")
        ask(arguments, "quantize", arguments.model, "--scheme", "W8A16KV3", "--kv-search", "3",
            "--kv-search-text", arguments.search_text, "--kv-search-windows", str(arguments.search_windows),
            "--kv-search-context", str(arguments.search_context), *FITTED, "-o", artefact)
        with open(artefact, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        os.remove(artefact)
        policy = next(json.loads(text)["kv"] for text in header["__metadata__"].values() if '"kv":' in text)
        with open(table, "w", encoding="utf-8") as file:
            json.dump(policy, file)
    return table


def print_savings(results, contexts):
    for context in contexts:
        found = results.get(f"searched, 3 bits @ {context}")
        for other in ("KV3 fitted", "K4V2 fitted"):
            uniform = results.get(f"{other} @ {context}")
            if found and uniform and found["windows"] == uniform["windows"]:
                print(f"searched against {other} at {context}: {1 - found['gap'] / uniform['gap']:.1%} less gap, "
                      f"{1 - found['kl'] / uniform['kl']:.1%} less KL, {found['windows']} windows")


def measure(arguments, results):
    policies = [(f"{side} {kind}", SIDES[side] + KINDS[kind]) for kind in KINDS for side in SIDES]
    if arguments.search_text:
        policies.append(("searched, 3 bits", ["--kv-table", searched_table(arguments)]))
    if arguments.rows:
        policies = [(name, options) for name, options in policies if name.split(",")[0] in arguments.rows]
    model = ask(arguments, "inspect", arguments.model, "--kv", "16")
    results["float_bytes"] = model["kv_bytes_per_token"]
    states = os.path.splitext(arguments.results)[0] + "_states.safetensors"
    for context in arguments.contexts:
        for name, options in policies:
            halves = [0]
            if context == max(arguments.contexts) and any(name.endswith(kind) for kind in BESIDE_PEER):
                halves.append(context // 2)
            for score_from in halves:
                key = f"{name} @ {context}" + (f" from {score_from}" if score_from else "")
                if results.get(key, {}).get("windows", 0) >= arguments.windows:
                    continue
                seen = ask(arguments, "inspect", arguments.model, *options)
                found = ask(arguments, "compare", arguments.model, "--reference", arguments.model, "--text",
                            arguments.text, "--context", str(context), "--windows", str(arguments.windows),
                            "--score-from", str(score_from), "--reference-states", states, *options)
                exact = seen["kv_sinks"] + seen["kv_recent"]
                total = exact * seen["kv_exact_bytes_per_token"] + (context - exact) * seen["kv_bytes_per_token"]
                keep(arguments, results, key, {
                    "name": name, "context": context, "score_from": score_from, "windows": found["windows"],
                    "gap": found["nll"] - found["reference_nll"], "kl": found["kl_mean"],
                    "kl_stderr": found["kl_stderr"], "bits": 32 * total / context / results["float_bytes"]})


def keep(arguments, results, key, result):
    results[key] = result
    print(f"{key}: gap {result['gap']:.5f}, KL {result['kl']:.5f}, {result['bits']:.2f} bits", flush=True)
    with open(arguments.results + ".part", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    os.replace(arguments.results + ".part", arguments.results)


def measure_peer(arguments, results):
    """llama.cpp's quantized caches against its f16 cache: the same weights, text and windows."""
    context = max(arguments.contexts)
    logits = os.path.splitext(arguments.results)[0] + f"_llama_{context}.kld"
    key_of = lambda kind: f"llama.cpp {kind} @ {context} from {context // 2}"
    missing = [kind for kind in PEER if results.get(key_of(kind), {}).get("windows") != arguments.windows]
    if not missing:
        return

    def run(*options):
        done = subprocess.run(
            [os.path.join(arguments.llama, "llama-perplexity"), "-m", arguments.model, "-f", arguments.text, "-c",
             str(context), "-b", str(context), "-ub", "512", "--chunks", str(arguments.windows),
             "--kl-divergence-base", logits, *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            sys.exit(text[-2000:])
        return text

    run("-fa", "on")
    for kind in missing:
        text = run("-ctk", kind, "-ctv", kind, "-fa", "on", "--kl-divergence")
        number = lambda name: re.search(re.escape(name) + r"\s*:\s*(-?[\d.]+) \u00b1\s*([\d.]+)", text)
        kl, gap = number("Mean    KLD"), number("Mean ln(PPL(Q)/PPL(base))")
        if not kl or not gap:
            sys.exit("llama-perplexity said something else:\n" + text[-2000:])
        keep(arguments, results, key_of(kind), {
            "name": f"llama.cpp {kind}", "context": context, "score_from": context // 2, "windows": arguments.windows,
            "gap": float(gap.group(1)), "kl": float(kl.group(1)), "kl_stderr": float(kl.group(2)), "bits": PEER[kind]})
    os.remove(logits)


def measured(results):
    return [r for r in results.values() if isinstance(r, dict)]


def table(results, contexts):
    lines = ["| policy | " + " | ".join(f"bits, gap, KL at {c}" for c in contexts) + " |",
             "|---" * (1 + len(contexts)) + "|"]
    for name in dict.fromkeys(r["name"] for r in measured(results) if not r.get("score_from")):
        row = [results.get(f"{name} @ {c}") for c in contexts]
        cells = [f"{r['bits']:.2f}, {r['gap']:.4f}, {r['kl']:.5f}" if r else "" for r in row]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    beside = sorted((r for r in measured(results) if r.get("score_from")), key=lambda r: -r["bits"])
    if beside:
        lines += ["", f"The second half of windows of {max(contexts)} tokens scored, as llama.cpp does it, "
                      f"by {COMMAND}:", "",
                  "| policy | bits | gap | KL | windows |", "|---|---:|---:|---:|---:|"]
        lines += [f"| {r['name']} | {r['bits']:.2f} | {r['gap']:.4f} | {r['kl']:.5f} \u00b1 {r['kl_stderr']:.5f} | "
                  f"{r['windows']} |" for r in beside]
    return "\n".join(lines)


def chart(results, context):
    width, height, left, bottom, top = 720, 440, 70, 50, 20
    colours = {"per token and head": "#999999", "fitted": "#d62728", "llama.cpp": "#2ca02c"}
    low, high, most = 1e-5, 10.0, 10.0
    x = lambda bits: left + (width - left - 20) * (bits - 2) / (most - 2)
    y = lambda gap: top + (height - top - bottom) * (math.log(high / max(gap, low)) / math.log(high / low))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>']
    for power in range(-5, 2):
        at = y(10.0 ** power)
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{at:.1f}" y2="{at:.1f}" stroke="#dddddd"/>'
                     f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    for bits in range(2, int(most) + 1):
        parts.append(f'<text x="{x(bits):.1f}" y="{height - bottom + 18}" text-anchor="middle">{bits}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">bits per number of the cache at '
                 f'{context} tokens, scales and exact tokens counted</text>')
    parts.append(f'<text x="14" y="{height / 2}" text-anchor="middle" transform="rotate(-90 14 {height / 2})">'
                 'KL divergence from the float cache, nats a token of the second half</text>')
    for result in measured(results):
        if result["context"] != context or not result["score_from"]:
            continue
        kind = next(k for k in colours if k in result["name"])
        parts.append(f'<circle cx="{x(result["bits"]):.1f}" cy="{y(result["kl"]):.1f}" r="4" fill="{colours[kind]}"/>'
                     f'<text x="{x(result["bits"]) + 6:.1f}" y="{y(result["kl"]) - 5:.1f}" fill="{colours[kind]}" '
                     f'font-size="10">{result["name"].split()[kind == "llama.cpp"]}</text>')
    for i, (kind, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{width - 190}" y="{top + 14 + 15 * i}" fill="{colour}">{kind}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--bisup", default=os.path.join(ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--contexts", default="1024,2048", type=lambda s: [int(c) for c in s.split(",")])
    parser.add_argument("--windows", default=16, type=int)
    parser.add_argument("--rows", type=lambda s: s.split(","), help="only these, as the table names them")
    parser.add_argument("--search-text", help="choose bits by layer on this text and measure them too")
    parser.add_argument("--llama", help="the folder of llama.cpp's programs: measure its caches too")
    parser.add_argument("--search-windows", default=2, type=int)
    parser.add_argument("--search-context", default=512, type=int)
    parser.add_argument("--results", default=os.path.join(ROOT, "build", "kv_cache.json"))
    parser.add_argument("--no-measuring", action="store_true", help="only write what was measured before")
    arguments = parser.parse_args()
    results = {}
    if os.path.exists(arguments.results):
        with open(arguments.results, encoding="utf-8") as file:
            results = json.load(file)
    if not arguments.no_measuring:
        measure(arguments, results)
        if arguments.llama:
            measure_peer(arguments, results)
    print_savings(results, arguments.contexts)
    if arguments.rows:
        return  # the documents show whole tables
    with open(os.path.join(ROOT, "docs", "kv-cache.svg"), "w", encoding="utf-8") as file:
        file.write(chart(results, max(r["context"] for r in measured(results))))
    path = os.path.join(ROOT, "docs", "kv-cache.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    text = re.sub(r"(<!-- measured -->\n).*?(<!-- /measured -->)",
                  lambda m: f"{m.group(1)}By {COMMAND}:\n\n{table(results, arguments.contexts)}\n{m.group(2)}",
                  text, flags=re.S)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
