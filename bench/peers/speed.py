# SPDX-License-Identifier: Apache-2.0
"""How fast is bisup beside its peers? Runs both in turns on this machine and writes docs/performance.md,
docs/performance.svg and the table of README.md; bash bench/peers/run.sh gets the peers first.

    python bench/peers/speed.py --llama FOLDER --model SmolLM2-135M-Instruct.Q4_1.gguf [--rounds 3] [--only NAMES]

Every round runs each pair once, ours and then the peer's, so that both see the same machine; a number is the
median over rounds, a ratio the median of the rounds' ratios. Finished rounds are kept in a file by processor
(--results), so a stopped run goes on and the tables of several machines stand side by side.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "bench", "accuracy"))
from rows import machine  # noqa: E402

TINYLLAMA = "TinyLlama-1.1B shape"
SMOLLM2 = "SmolLM2-135M"
PROMPT, GENERATED = 512, 32


class Pair:
    """One of our runs beside one of a peer's. kind: prefill, decode, product, or weights read by one token."""

    def __init__(self, peer, model, kind, depth, scheme, ours, file, theirs, threads, target, method="rtn"):
        self.peer, self.model, self.kind, self.depth, self.threads = peer, model, kind, depth, threads
        self.scheme, self.ours, self.file, self.theirs, self.target = scheme, ours, file, theirs, target
        self.method = method
        self.work = " ".join([model, kind] + ([f"at {depth}"] if depth else []) + [scheme + cache_of(ours)] +
                             ([method] if method != "rtn" else []) + ["/", file + cache_of(theirs)])
        self.name = f"{self.work} {threads}T"

    def sizes(self):
        return (PROMPT, 0) if self.kind == "prefill" else (0, GENERATED)


def cache_of(options):
    """What the options say of keys and values."""
    for name, shown in (("--kv", "KV{}"), ("-ctk", "{} cache")):
        if name in options:
            return " " + shown.format(options[options.index(name) + 1])
    return ""


def pairs():
    made = []
    cache = lambda kind: ["-ctk", kind, "-ctv", kind, "-fa", "1"]
    llama = lambda *what: made.append(Pair("llama.cpp", *what))
    for threads in (1, 2):
        llama(SMOLLM2, "prefill", 0, "W4A8-g64-head8", [], "Q4_0", [], threads, 2.4)
        llama(SMOLLM2, "decode", 0, "W4A8-g64-head8", [], "Q4_0", [], threads, 1.3)
        llama(TINYLLAMA, "prefill", 0, "W4A8-g32", [], "Q4_0", [], threads, 2.5)
        llama(TINYLLAMA, "decode", 0, "W4A8-g32", [], "Q4_0", [], threads, 1.4)
    llama(TINYLLAMA, "prefill", 0, "W8A8-g128", [], "Q8_0", [], 1, 2.6)
    llama(TINYLLAMA, "decode", 0, "W2A8-g64", [], "TQ2_0", [], 1, 1.6)
    llama(TINYLLAMA, "decode", 0, "W2A8-g64", [], "Q2_K", [], 1, 1.6)
    llama(TINYLLAMA, "decode", 2048, "W4A8-g32", ["--kv", "8"], "Q4_0", cache("q8_0"), 1, 2.5)
    llama(TINYLLAMA, "decode", 2048, "W4A8-g32", ["--kv", "4"], "Q4_0", cache("q4_0"), 1, 4)
    llama(TINYLLAMA, "prefill", 2048, "W4A8-g32", ["--kv", "4"], "Q4_0", cache("f16"), 1, 2.5)
    for bits, target in (("8", .9), ("4", .93), ("2", .94)):
        made.append(Pair("bisup", TINYLLAMA, "decode", 2048, "W4A8-g32", ["--kv", bits], "at depth 0", [], 1, target))
    # What a recipe adds at run time may take 15 % and 8 % of plain round-to-nearest.
    for method in ("bisup_atom", "bisup_quarot"):
        for kind, target in (("prefill", 1 / 1.15), ("decode", 1 / 1.08)):
            made.append(Pair("bisup", SMOLLM2, kind, 0, "W4A8-g64-head8", [], "rtn", [], 1, target, method))
    for kind, target in (("prefill", 1.4), ("decode", 2.5)):
        made.append(Pair("CTranslate2", SMOLLM2, kind, 0, "W8A8-head8", [], "int8", [], 1, target))
    for peer, tokens, target in (("ONNX Runtime", 512, 2), ("OpenVINO", 512, 1.15), ("ONNX Runtime", 1, 1.2),
                                 ("OpenVINO", 1, 1.5)):
        made.append(Pair(peer, f"{tokens} x 2048 x 5632", "product", 0, "W4A8-g128", ["product/int4_g128/", tokens],
                         {"ONNX Runtime": "MatMulNBits", "OpenVINO": "u4"}[peer], ["--tokens", tokens], 1, target))
    for type_, sizes, target in (("f32", (576, 576), .95), ("f32", (1536, 576), .95), ("f32", (2048, 2048), .95),
                                 ("f32", (5632, 2048), .95), ("bf16", (2048, 2048), .95), ("bf16", (5632, 2048), .95),
                                 ("rank_update", (576, 576), .95), ("rank_update", (2048, 2048), .95),
                                 ("int8_channel", (5632, 2048), None), ("int8_g128", (5632, 2048), None)):
        shape = f"{sizes[0]}x{sizes[1]}x512" if type_ == "rank_update" else f"512x{sizes[0]}x{sizes[1]}"
        made.append(Pair("oneDNN", shape.replace("x", " x "), "product", 0, type_, [f"{type_}/{shape}/"],
                         type_.split("_")[0].replace("rank", "f32"), [], 1, target))
    return made + limits()


def limits():
    """Ours beside what the machine could do, measured by the same program: not shown among the peers."""
    made = []
    for bits, group, target in ((8, 128, .90), (4, 128, .90), (4, 32, .84), (3, 128, .82), (2, 128, .90), (5, 128, .78),
                                (6, 128, .78), (8, 0, .93), (4, 0, .93)):
        of = f"g{group}" if group else "channel"
        made.append(Pair("limit", "504 x 5632 x 2048", "product", 0, f"W{bits}A8-{of}",
                         ["gemm", f"gemm/int{bits}_{of}/panel16/.*/token/504/"], "peak", [], 1, target))
    for bits, target in ((8, .95), (6, None), (5, None), (4, .90), (3, .78), (2, .82)):
        made.append(Pair("limit", "1 x 5632 x 2048", "weights", 0, f"W{bits}A8-g128",
                         ["gemv", f"gemv/int{bits}_g128/"], "read bandwidth", [], 1, target))
    made.append(Pair("limit", "504 x 5632 x 2048", "product", 0, "W4A8-g128 by AVX2",
                     ["gemm", "gemm/int4_g128/panel16/avx2/token/504/"], "maddubs + maddwd + paddd", [], 1, .85))
    for bits in (8, 4, 2):
        made.append(Pair("limit", "504 x 5632 x 2048", "product", 0, f"W{bits}A8-g128",
                         ["gemm", f"gemm_two_threads/int{bits}_g128"], "one thread", [], 2, 1.9))
    for bits in (8, 4, 3, 2):
        made.append(Pair("limit", "1 x 5632 x 2048", "weights", 0, f"W{bits}A8-g128",
                         ["gemv", f"gemv_two_threads/int{bits}_g128"], "read bandwidth", [], 2, .92))
    return made


class Runner:
    def __init__(self, options):
        self.options = options
        self.folder = os.path.join(ROOT, "build", "peers")
        os.makedirs(self.folder, exist_ok=True)

    def run(self, *command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            sys.exit(" ".join(command) + "\n" + done.stderr.decode(errors="replace")[-2000:])
        return done.stdout.decode()

    def made(self, name, make):
        """A file that is made once, under a temporary name."""
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            make(path + ".part")
            os.replace(path + ".part", path)
        return path

    def artefact(self, scheme, method="rtn"):
        """Learned as little as it can be: that changes numbers, but not how many."""
        learned = [] if method == "rtn" else ["--preset", "demo", "--block-steps", "1", "--end-to-end", "1",
                                              "--self-generate", "16"]
        return self.made(f"SmolLM2-{'' if method == 'rtn' else method + '-'}{scheme}.safetensors",
                         lambda path: self.run(self.options.bisup, "quantize", self.options.model, "--scheme", scheme,
                                               "--method", method, *learned, "-o", path))

    def peer_file(self, pair):
        """The peer's file or folder: of the same dequantized weights, or random ones of the shape."""
        if pair.peer == "CTranslate2":
            return self.made(f"{pair.model}-ctranslate2", lambda path: self.run(
                sys.executable, os.path.join(HERE, "ctranslate2_peer.py"), "convert", self.options.model, path))
        if pair.model == SMOLLM2:
            source = self.options.model
        else:
            source = self.made("tinyllama-f16.gguf", lambda path: self.run(
                sys.executable, os.path.join(HERE, "random_gguf.py"), path))
        return self.made(f"{pair.model.split()[0]}-{pair.file}.gguf", lambda path: self.run(
            os.path.join(self.options.llama, "llama-quantize"), "--allow-requantize", source, path, pair.file))

    def ours(self, pair, depth=None, method=None):
        if pair.kind == "product":
            name, tokens = pair.ours
            told = json.loads(self.run(
                os.path.join(self.options.benches, "bench_peers_product"), f"--benchmark_filter={name}{tokens}/",
                "--benchmark_format=json"))
            return {"rate": told["benchmarks"][0]["GOPS"]}
        prompt, generated = pair.sizes()
        what = [self.artefact(pair.scheme, method or pair.method)] if pair.model == SMOLLM2 else [
            "--shape", "tinyllama-1.1b", "--scheme", pair.scheme]
        told = json.loads(self.run(
            self.options.bisup, "bench", *what, "-p", str(prompt), "-n", str(generated), "-d",
            str(pair.depth if depth is None else depth), "-t", str(pair.threads), "-r", "1", *pair.ours, "--json"))
        result = told["results"][0]
        return {"rate": result["avg_ts"], "bytes": told["model_size"],
                "of_bandwidth": result["read_bytes_per_second"] and
                result["read_bytes_per_second"] / result["memory_bytes_per_second"]}

    def theirs(self, pair):
        return {"llama.cpp": self.llama, "CTranslate2": self.ctranslate2, "bisup": self.itself}.get(
            pair.peer, self.product)(pair)

    def itself(self, pair):
        """Ours rounded to nearest: what a recipe adds."""
        return {**self.ours(pair, 0, "rtn"), "build": ""}

    def depths(self, pair):
        """Ours behind nothing and behind many tokens, in one process: what depth costs."""
        told = json.loads(self.run(
            self.options.bisup, "bench", "--shape", "tinyllama-1.1b", "--scheme", pair.scheme, "-p", "0", "-n",
            str(GENERATED), "-d", f"0,{pair.depth}", "-t", str(pair.threads), "-r", "5", *pair.ours, "--json"))
        side = lambda result: {"rate": statistics.median(result["samples_ts"]), "bytes": told["model_size"],
                               "of_bandwidth": result["read_bytes_per_second"] / result["memory_bytes_per_second"]}
        shallow, deep = map(side, told["results"])
        return {"ours": deep, "theirs": {**shallow, "build": ""}}

    def ctranslate2(self, pair):
        prompt, generated = pair.sizes()
        told = json.loads(self.run(
            sys.executable, os.path.join(HERE, "ctranslate2_peer.py"), "bench", self.peer_file(pair), "-p", str(prompt),
            "-n", str(generated), "-t", str(pair.threads)))
        return {"rate": told[pair.kind], "bytes": told["bytes"], "build": told["build"]}

    def product(self, pair):
        told = json.loads(self.run(
            sys.executable, os.path.join(HERE, "product_peer.py"), pair.peer.replace(" ", "").lower(),
            *map(str, pair.theirs)))
        return {"rate": told["gops"], "build": told["build"]}

    def both(self, pair):
        """A program that takes the turns itself."""
        told = json.loads(self.run(
            os.path.join(self.options.benches, "bench_peers_onednn"), f"--benchmark_filter=^{pair.ours[0]}",
            "--benchmark_format=json"))
        result = told["benchmarks"][0]
        return {"ours": {"rate": result["GOPS"]},
                "theirs": {"rate": result["GOPS"] / result["of_oneDNN"],
                           "build": "oneDNN " + told["context"]["oneDNN"]}}

    def limit(self, pair):
        """The strongest target is the first that the program runs; GOPS beside its peak or one thread's, or GB/s
        beside the bandwidth."""
        program, name = pair.ours
        told = json.loads(self.run(os.path.join(self.options.benches, f"bench_ops_{program}"),
                                   f"--benchmark_filter=^{name}", "--benchmark_format=json"))["benchmarks"][0]
        rate = "GOPS" if program == "gemm" else "GB/s"
        share = next(name for name in ("of_peak", "of_one", "of_bandwidth") if name in told)
        return {"ours": {"rate": told[rate]}, "theirs": {"rate": told[rate] / told[share], "build": ""}}

    def llama(self, pair):
        prompt, generated = pair.sizes()
        told = json.loads(self.run(
            os.path.join(self.options.llama, "llama-bench"), "-m", self.peer_file(pair), "-p", str(prompt),
            "-n", str(generated), "-d", str(pair.depth), "-t", str(pair.threads), "-r", "1", *pair.theirs,
            *(["--no-warmup"] if pair.depth else []),  # minutes of reading warm it up
            "-o", "json"))[-1]
        package = re.search(r"llama\.cpp-([\d.]+)", self.options.llama)
        return {"rate": told["avg_ts"], "bytes": told["model_size"],
                "build": "llama.cpp" + (f" of llama-cpp-python {package.group(1)}" if package else "")}


def measure(options, results):
    runner, here = Runner(options), results.setdefault(machine(), {})
    chosen = [pair for pair in pairs() if not options.only or any(part in pair.name for part in options.only)]
    for pair in chosen:  # files are made before anything is timed
        if pair.peer in ("llama.cpp", "CTranslate2"):
            runner.peer_file(pair)
        if pair.model == SMOLLM2:
            runner.artefact(pair.scheme, pair.method)
    for number in range(options.rounds):
        for pair in chosen:
            rounds = here.setdefault(pair.name, [])
            if len(rounds) > number:
                continue
            rounds.append(runner.both(pair) if pair.peer == "oneDNN" else
                          runner.limit(pair) if pair.peer == "limit" else
                          runner.depths(pair) if pair.peer == "bisup" and pair.depth else
                          {"ours": runner.ours(pair), "theirs": runner.theirs(pair)})
            last = rounds[-1]
            print(f"{pair.name}: {last['ours']['rate']:.1f} / {last['theirs']['rate']:.1f} = "
                  f"{last['ours']['rate'] / last['theirs']['rate']:.2f}", file=sys.stderr, flush=True)
            with open(options.results + ".part", "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)
            os.replace(options.results + ".part", options.results)


def summary(rounds):
    middle = lambda values: statistics.median(values)
    of_bandwidth = [r["ours"]["of_bandwidth"] for r in rounds if r["ours"].get("of_bandwidth") is not None]
    bytes_of = lambda side: rounds[-1][side].get("bytes")
    return {"ours": middle(r["ours"]["rate"] for r in rounds), "theirs": middle(r["theirs"]["rate"] for r in rounds),
            "ratio": middle(r["ours"]["rate"] / r["theirs"]["rate"] for r in rounds),
            "bytes": [f"{size / 1e6:.0f}" for size in map(bytes_of, ("ours", "theirs")) if size is not None],
            "of_bandwidth": middle(of_bandwidth) if of_bandwidth else None, "rounds": len(rounds)}


UNITS = {"product": "GOPS", "weights": "GB/s"}


def tables(results):
    text = ""
    for name, measured in results.items():
        builds = {r["theirs"]["build"] or "itself" for rounds in measured.values() for r in rounds}
        text += f"### {name}\n\nPeers: {', '.join(sorted(builds))}.\n\n"
        text += "By `bash bench/peers/run.sh`:\n\n"
        text += ("| work, ours / theirs | threads | bisup | peer | ratio | to reach | MB, ours / theirs | "
                 "of bandwidth | rounds |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
        for pair in pairs():
            if pair.name not in measured:
                continue
            s = summary(measured[pair.name])
            reach = "" if pair.target is None else (
                "" if s["ratio"] >= pair.target else "**missed** ") + f"\u2265 {pair.target:.3g}"
            share = "" if s["of_bandwidth"] is None else f"{s['of_bandwidth']:.0%}"
            unit = UNITS.get(pair.kind, "t/s")
            text += (f"| {label(pair)} | {pair.threads} | {s['ours']:.1f} {unit} | "
                     f"{s['theirs']:.1f} {unit} | {s['ratio']:.2f} | {reach} | {' / '.join(s['bytes'])} | {share} | "
                     f"{s['rounds']} |\n")
        text += "\n"
    return text


def label(pair):
    peer = "" if pair.peer in ("bisup", "limit") else f"{pair.peer} "
    return pair.work.replace("/ ", "/ " + peer)


def ratios(results):
    """One thread beside each peer, a column a processor: what the README shows."""
    shown = [pair for pair in pairs() if pair.threads == 1 and pair.peer not in ("oneDNN", "bisup", "limit")]
    text = "Made by `bash bench/peers/run.sh`, how many times as fast as the peer with one thread:\n\n"
    text += "| work, ours / theirs | " + " | ".join(results) + " |\n|---|" + "---:|" * len(results) + "\n"
    for pair in shown:
        cells = [f"{summary(measured[pair.name])['ratio']:.2f}" if pair.name in measured else ""
                 for measured in results.values()]
        text += f"| {label(pair)} | " + " | ".join(cells) + " |\n"
    return text


def chart(results):
    bars = [(name, pair, summary(measured[pair.name])["ratio"]) for name, measured in results.items()
            for pair in pairs() if pair.name in measured and pair.peer != "limit"]
    left, row, width = 500, 20, 920
    most = max(5.0, *(ratio for _, _, ratio in bars))
    x = lambda ratio: left + (width - left - 60) * ratio / most
    height = 40 + row * (len(bars) + len(results)) + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
             f'font-size="11">', f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="{left}" y="18">speed, as a multiple of its peer</text>']
    y, shown = 30, None
    for name, pair, ratio in bars:
        if name != shown:
            parts.append(f'<text x="8" y="{y + 14}" font-weight="bold">{name}</text>')
            y, shown = y + row, name
        colour = {"prefill": "#1f77b4", "decode": "#ff7f0e", "product": "#2ca02c"}[pair.kind]
        parts.append(f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{label(pair)}, {pair.threads} T</text>'
                     f'<rect x="{left}" y="{y + 3}" width="{x(ratio) - left:.1f}" height="13" fill="{colour}"/>'
                     f'<text x="{x(ratio) + 4:.1f}" y="{y + 13}">{ratio:.2f}</text>')
        y += row
    parts.append(f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="26" y2="{y}" stroke="black" stroke-dasharray="3 3"/>')
    return "\n".join(parts) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--llama", help="the folder of llama.cpp's programs")
    parser.add_argument("--model", help="SmolLM2-135M-Instruct as GGUF")
    parser.add_argument("--bisup", default=os.path.join(ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--benches", default=os.path.join(ROOT, "build", "bench", "bin"), help="folder of our benches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="pairs whose names hold this; may be repeated")
    parser.add_argument("--results", default=os.path.join(ROOT, "docs", "performance_rounds.json"))
    parser.add_argument("--table", action="store_true", help="write the documents again, measure nothing")
    options = parser.parse_args()
    results = {}
    if os.path.exists(options.results):
        with open(options.results, encoding="utf-8") as file:
            results = json.load(file)
    if not options.table:
        if not options.llama or not options.model:
            parser.error("--llama and --model are needed to measure")
        measure(options, results)
    with open(os.path.join(ROOT, "docs", "performance.svg"), "w", encoding="utf-8") as file:
        file.write(chart(results))
    for name, written in (("docs/performance.md", tables(results)), ("README.md", ratios(results))):
        path = os.path.join(ROOT, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        text = re.sub(r"(<!-- measured -->\n).*?(<!-- /measured -->)",
                      lambda m, new=written: m.group(1) + new + m.group(2), text, flags=re.S)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
