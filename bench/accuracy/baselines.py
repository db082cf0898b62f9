# SPDX-License-Identifier: Apache-2.0
"""How good are the baselines? Quantizes a model by each recipe and scheme and prints docs/accuracy.md.

    python3 bench/accuracy/baselines.py --model MODEL.gguf --calib CALIB.txt --text TEST.txt

Each finished row is one line of CACHE/rows.jsonl, so a run that was stopped goes on where it was; a row
counts only for the model, texts, samples, windows and command that made it. --only chooses rows,
--table prints what there is and measures nothing. Progress goes to stderr.
"""

import argparse
import fnmatch
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPES = ["rtn", "gptq", "smoothquant", "atom", "quarot"]
BITS = ["W8A8KV8", "W4A8KV8", "W4A4KV4", "W3A3KV3"]
GROUPS = [64, 128]
# Clips of activations and of the cache in the papers; rtn never clips, so it has one row.
PAPERS = {"gptq": ("1", "1"), "smoothquant": ("1", "1"), "atom": ("0.9", "1"), "quarot": ("0.9", "0.95")}
# The gap to reach in nats a token, with searched clips.
TARGETS = {
    ("rtn", "W8A8KV8"): 0.012, ("rtn", "W4A8KV8"): 0.42, ("gptq", "W4A8KV8"): 0.16,
    ("atom", "W4A8KV8"): 0.115, ("atom", "W4A4KV4"): 0.42, ("atom", "W3A3KV3"): 2.1,
    ("quarot", "W4A8KV8"): 0.115, ("quarot", "W4A4KV4"): 0.52, ("quarot", "W3A3KV3"): 3.3,
}


class Row:
    def __init__(self, recipe, bits, group, papers):
        self.recipe, self.bits, self.group, self.papers = recipe, bits, group, papers
        self.scheme = f"{bits}-g{group}-head16"
        self.name = f"{recipe}:{bits}-g{group}" + (":papers" if papers else "")
        self.target = None if papers or group != 64 else TARGETS.get((recipe, bits))

    def clips(self):
        """Their column: where the clips of activations and of the cache come from."""
        if self.recipe == "rtn":
            return "none"
        return " / ".join(PAPERS[self.recipe]) if self.papers else "searched"


def all_rows():
    return [Row(recipe, bits, group, papers) for group in GROUPS for bits in BITS for recipe in RECIPES
            for papers in ([False] if recipe == "rtn" else [False, True])]


def chosen(options):
    if not options.only:
        return all_rows()
    patterns = [p for text in options.only for p in text.split(",")]
    rows = [row for row in all_rows() if any(fnmatch.fnmatchcase(row.name, p) for p in patterns)]
    if not rows:
        sys.exit("baselines: no row is called " + " ".join(patterns) + "; --list shows their names")
    return rows


def digest(path):
    """Of a file, or of the weights and the config in a folder."""
    files = [path] if os.path.isfile(path) else sorted(
        os.path.join(path, name) for name in os.listdir(path) if name.endswith((".safetensors", ".json")))
    hashed = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()[:16]


def machine():
    """The processor in words."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            text = file.read()
        name = re.search(r"model name\s*:\s*(.*)", text)
        flags = set(re.search(r"flags\s*:\s*(.*)", text).group(1).split())
        known = [shown for flag, shown in (("avx2", "AVX2"), ("avx512f", "AVX-512"),
                                           ("avx512_vnni", "AVX-512 VNNI")) if flag in flags]
        return (name.group(1) if name else platform.machine()) + (f" ({known[-1]})" if known else "")
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


class Bench:
    def __init__(self, options):
        self.options = options
        self.threads = options.threads or len(os.sched_getaffinity(0))
        version = self.command("--version").strip()
        self.settings = {
            "model": digest(options.model), "calib": digest(options.calib), "text": digest(options.text),
            "samples": options.samples, "length": options.length, "seed": options.seed,
            "windows": options.windows, "context": options.context, "version": version}
        # Kernels and recipes may change between two versions of one number: the command is known by
        # its bytes, and --keep-rows accepts rows of another build.
        if not options.keep_rows:
            self.settings["command"] = digest(options.bisup)
        self.path = os.path.join(options.cache, "rows.jsonl")
        os.makedirs(options.cache, exist_ok=True)

    def command(self, *arguments):
        done = subprocess.run([self.options.bisup, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False)
        if done.returncode != 0:
            sys.exit("baselines: bisup " + " ".join(arguments) + "\n" + done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def ask(self, *arguments):
        return json.loads(self.command(*arguments, "--json", "--threads", str(self.threads)))

    def finished(self):
        """The last line of each row that these settings made; a line cut short by a kill is none."""
        rows = {}
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                for line in file:
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError:
                        continue
                    if all(row["settings"].get(k) == v for k, v in self.settings.items()):
                        rows[row["name"]] = row
        return rows

    def quantize(self, row, path):
        options = self.options
        arguments = ["quantize", options.model, "--method", row.recipe, "--scheme", row.scheme, "-o", path]
        if row.recipe != "rtn":
            arguments += ["--calib", options.calib, "--calib-samples", str(options.samples),
                          "--calib-length", str(options.length), "--seed", str(options.seed)]
        if row.papers:
            activations, cache = PAPERS[row.recipe]
            arguments += ["--act-clip", activations, "--kv-clip", cache]
        return self.ask(*arguments)

    def windows(self):
        return ["--text", self.options.text, "--context", str(self.options.context),
                "--windows", str(self.options.windows)]

    def measure(self, row):
        path = os.path.join(self.options.cache, row.name.replace(":", "-") + ".safetensors")
        quantized = self.quantize(row, path)
        compared = self.ask("compare", path, "--reference", self.options.model, *self.windows())
        result = {"name": row.name, "settings": {**self.settings, "command": digest(self.options.bisup)},
                  "machine": machine(), "threads": self.threads, "scheme": compared["scheme"],
                  "float_nll": compared["reference_nll"],
                  "window_nll": compared["window_nll"], "float_window_nll": compared["reference_window_nll"],
                  "kl": compared["kl_mean"], "kl_stderr": compared["kl_stderr"],
                  "kl_p99": compared["kl_p99"], "top1": compared["top1_agreement"],
                  "tokens": compared["tokens"], "context": compared["context"],
                  "bits_per_weight": quantized["bits_per_weight"], "bytes": quantized["bytes"],
                  "seconds": quantized["seconds"], "peak_memory_bytes": quantized["peak_memory_bytes"],
                  "simulated_window_nll": None}
        if self.options.simulate:
            simulated = self.ask("perplexity", path, "--simulate", *self.windows())
            result["simulated_window_nll"] = simulated["window_nll"]
        if not self.options.keep:
            os.remove(path)
        return result

    def remember(self, result):
        with open(self.path, "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that a kill cut short
                    file.write(b"\n")
            file.write(json.dumps(result).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def run(self):
        rows, done = chosen(self.options), self.finished()
        for number, row in enumerate(rows):
            old = done.get(row.name)
            missing = old is None or (self.options.simulate and old["simulated_window_nll"] is None)
            if not missing or self.options.table:
                continue
            print(f"[{number + 1}/{len(rows)}] {row.name}", file=sys.stderr, flush=True)
            result = self.measure(row)
            self.remember(result)
            done[row.name] = result
        return [(row, done[row.name]) for row in rows if row.name in done]


def mean_and_error(values):
    """Mean and standard error; the error of one value is not known."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def gap_of(result):
    return mean_and_error([a - b for a, b in zip(result["window_nll"], result["float_window_nll"])])


def with_error(mean, error, digits=4):
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" \u00b1 {error:.{digits}f}")


def target_of(row, gap):
    if row.target is None:
        return ""
    return ("" if gap <= row.target else "**missed** ") + f"\u2264 {row.target:g}"


def line_of(row, result):
    gap, error = gap_of(result)
    perplexity = math.exp(sum(result["window_nll"]) / len(result["window_nll"]))
    cells = [row.recipe, row.clips(), with_error(gap, error), target_of(row, gap), f"{perplexity:.2f}",
             with_error(result["kl"], math.nan if result["kl_stderr"] is None else result["kl_stderr"]),
             f"{result['bits_per_weight']:.3f}"]
    simulated = result["simulated_window_nll"]
    if simulated:
        other = math.exp(sum(simulated) / len(simulated))
        cells.append(f"{other:.2f} ({100 * (perplexity / other - 1):+.2f} %)")
    else:
        cells.append("")
    cells.append(f"{result['peak_memory_bytes'] / 1e6:.0f} MB")
    return "| " + " | ".join(cells) + " |"


def header(options, results):
    first = results[0][1]
    note = json.loads(subprocess.run([options.bisup, "inspect", options.model, "--json"], check=True,
                                     stdout=subprocess.PIPE).stdout)
    machines = sorted({f"{result['machine']}, {result['threads']} threads" for _, result in results})
    float_nll, windows = first["float_nll"], len(first["window_nll"])
    return f"""# Accuracy of the baselines

Model: `{os.path.basename(os.path.normpath(options.model))}`, {note['parameters'] / 1e6:.1f} M parameters; float = its own
weights ({note['float_weights']}), perplexity {math.exp(float_nll):.3f} (NLL {float_nll:.4f}).
Text: `{os.path.basename(options.text)}`, {windows} windows of {first['context']} tokens. Calibration:
`{os.path.basename(options.calib)}`, {options.samples} samples of {options.length} tokens, seed {options.seed}.

*Gap* is the mean NLL minus the float model's on the same windows, paired, \u00b1 one standard error over
windows; *target* is what was to be reached. *KL* is KL(float || model) in nats a token. *Bits* counts
scales, zero points, keepers and padding of all linears; embeddings and lm_head are f16. *Clips* are
searched on held-out calibration text, or the papers' constants (activations / cache). *Simulated* is
the perplexity of the same codes in float arithmetic and how far the packed model is from it.
*Memory* is the peak of `bisup quantize`; bench/peers/calibration.py measures its time. Measured on {'; '.join(machines)}."""


def table(options, results):
    print(header(options, results))
    for group in GROUPS:
        for bits in BITS:
            lines = [line_of(row, result) for row, result in results if (row.group, row.bits) == (group, bits)]
            if not lines:
                continue
            print(f"\n## {bits}-g{group}\n\nBy `python3 bench/accuracy/baselines.py`:\n")
            print("| recipe | clips | gap, nats | target | perplexity | KL | bits | simulated | memory |")
            print("|---|---|---:|---|---:|---:|---:|---:|---:|")
            print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", help="the float model")
    parser.add_argument("--calib", help="calibration text")
    parser.add_argument("--text", help="text to measure on")
    parser.add_argument("--bisup", default=os.path.join(ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--cache", default=os.path.join(ROOT, "build", "accuracy"))
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores this process may use")
    parser.add_argument("--only", action="append", metavar="ROW",
                        help="rows by name, with * and commas: 'atom:W4A4KV4-g64', 'rtn:*'; may be repeated")
    parser.add_argument("--simulate", action="store_true", help="also `bisup perplexity --simulate` of each row")
    parser.add_argument("--keep", action="store_true", help="keep the quantized models in the cache")
    parser.add_argument("--keep-rows", action="store_true", help="accept rows that another build measured")
    parser.add_argument("--table", action="store_true", help="print the rows that are there, measure none")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    options = parser.parse_args()
    if options.list:
        print("\n".join(row.name for row in chosen(options)))
        return
    for name in ("model", "calib", "text"):
        path = getattr(options, name)
        if path is None or not os.path.exists(path):
            parser.error(f"--{name} is needed, and must exist")
    if not os.path.exists(options.bisup):
        parser.error(f"there is no {options.bisup}: cmake --build build/release --target bisup_command, or --bisup")
    results = Bench(options).run()
    if not results:
        sys.exit("baselines: no row is finished")
    table(options, results)


if __name__ == "__main__":
    main()
