# SPDX-License-Identifier: Apache-2.0
"""How are the rows of a table of accuracy measured so that a stopped run goes on where it was?

A row has a name, a scheme, the arguments of `bisup quantize` and whether it reads calibration text. Each
finished row is one line of a file; it counts only for the model, texts, seed, windows and
command that made it. baselines.py and tuned.py make tables of them. Progress goes to stderr.
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


def prompt_of(arguments):
    """The prompt that a row's model has: methods that tune take the token that begins a text."""
    if "--cache-prompt" in arguments:
        return arguments[arguments.index("--cache-prompt") + 1]
    return "bos" if any(argument.startswith("bisup_") for argument in arguments) else "none"


def same(old, new):
    """Whether rows of these arguments are one: `--cache-prompt none` went without saying before methods that tune had a
    prompt."""
    def said(arguments):
        at = arguments.index("--cache-prompt") if "--cache-prompt" in arguments else len(arguments)
        return arguments[:at] + arguments[at + 2:] if arguments[at + 1:at + 2] == ["none"] else arguments
    return said(old) == said(new)


class Bench:
    def __init__(self, options):
        self.options = options
        self.threads = options.threads or len(os.sched_getaffinity(0))
        version = self.command("--version").strip()
        self.settings = {
            "model": digest(options.model), "calib": digest(options.calib), "text": digest(options.text),
            "seed": options.seed, "windows": options.windows, "context": options.context, "version": version}
        # Kernels and recipes may change between two versions of one number: the command is known by
        # its bytes, and --keep-rows accepts rows of another build.
        if not options.keep_rows:
            self.settings["command"] = digest(options.bisup)
        self.path = options.rows or os.path.join(options.cache, "rows.jsonl")
        os.makedirs(options.cache, exist_ok=True)

    def command(self, *arguments):
        done = subprocess.run([self.options.bisup, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False)
        if done.returncode != 0:
            sys.exit("bisup " + " ".join(arguments) + "\n" + done.stderr.decode(errors="replace"))
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
        arguments = ["quantize", options.model, "--scheme", row.scheme, *row.arguments, "-o", path]
        if row.calibrated:
            arguments += ["--calib", options.calib, "--seed", str(options.seed)]
        return self.ask(*arguments)

    def windows(self, text=None):
        return ["--text", text or self.options.text, "--context", str(self.options.context),
                "--windows", str(self.options.windows)]

    def states(self, row):
        """Where what the float model makes of the texts is kept for all rows of one build and stored prompt."""
        prompt = prompt_of(row.arguments)
        known = [self.settings["model"], digest(self.options.bisup), hashlib.sha256(prompt.encode()).hexdigest()[:16]]
        return os.path.join(self.options.cache, "states-" + "-".join(known) + ".safetensors")

    def compare(self, row, path, text=None):
        """What is kept of a comparison with the float model, window by window."""
        compared = self.ask("compare", path, "--reference", self.options.model, *self.windows(text),
                            "--reference-states", self.states(row))
        return {"scheme": compared["scheme"], "float_nll": compared["reference_nll"],
                "window_nll": compared["window_nll"], "float_window_nll": compared["reference_window_nll"],
                "kl": compared["kl_mean"], "kl_stderr": compared["kl_stderr"], "kl_p99": compared["kl_p99"],
                "top1": compared["top1_agreement"], "tokens": compared["tokens"],
                "context": compared["context"]}

    def measure(self, row):
        path = os.path.join(self.options.cache, row.name.replace(":", "-") + ".safetensors")
        quantized = self.quantize(row, path)
        result = {"name": row.name, "arguments": row.arguments,
                  "settings": {**self.settings, "command": digest(self.options.bisup)},
                  "machine": machine(), "threads": self.threads, **self.compare(row, path),
                  "bits_per_weight": quantized["bits_per_weight"], "bytes": quantized["bytes"],
                  "seconds": quantized["seconds"], "peak_memory_bytes": quantized["peak_memory_bytes"],
                  "simulated_window_nll": None}
        if quantized.get("end_to_end_training"):  # of methods that tune all blocks together
            result["end_to_end"] = {"held_out": quantized["end_to_end_held_out"],
                                    "training": quantized["end_to_end_training"]}
        if self.options.second_text:
            result["second"] = {"text": digest(self.options.second_text),
                                **self.compare(row, path, self.options.second_text)}
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

    def run(self, rows):
        """The rows that are finished in the end: [(row, result)]."""
        done = self.finished()
        for number, row in enumerate(rows):
            old = done.get(row.name)
            missing = (old is None or not same(old["arguments"], row.arguments) or
                       (self.options.simulate and old["simulated_window_nll"] is None) or
                       (self.options.second_text and
                        old.get("second", {}).get("text") != digest(self.options.second_text)))
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


def kl_of(result, digits=4):
    return with_error(result["kl"], math.nan if result["kl_stderr"] is None else result["kl_stderr"], digits)


def add_options(parser):
    parser.add_argument("--model", help="the float model")
    parser.add_argument("--calib", help="calibration text")
    parser.add_argument("--text", help="text to measure on")
    parser.add_argument("--second-text", help="a text of another kind, to measure on as well")
    parser.add_argument("--bisup", default=os.path.join(ROOT, "build", "release", "bin", "bisup"))
    parser.add_argument("--cache", default=os.path.join(ROOT, "build", "accuracy"))
    parser.add_argument("--rows", metavar="FILE", help="where finished rows are kept; CACHE/rows.jsonl unless given")
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


def chosen(options, rows):
    if not options.only:
        return rows
    patterns = [p for text in options.only for p in text.split(",")]
    some = [row for row in rows if any(fnmatch.fnmatchcase(row.name, p) for p in patterns)]
    if not some:
        sys.exit("no row is called " + " ".join(patterns) + "; --list shows their names")
    return some


def measure(parser, all_rows, bench=Bench):
    """Parses the command line and measures the chosen rows: the options and [(row, result)]. bench may measure more."""
    options = parser.parse_args()
    rows = chosen(options, all_rows(options))
    if options.list:
        print("\n".join(row.name for row in rows))
        sys.exit()
    for name in ("model", "calib", "text"):
        path = getattr(options, name)
        if path is None or not os.path.exists(path):
            parser.error(f"--{name} is needed, and must exist")
    if not os.path.exists(options.bisup):
        parser.error(f"there is no {options.bisup}: cmake --build build/release --target bisup_command, or --bisup")
    results = bench(options).run(rows)
    if not results:
        sys.exit("no row is finished")
    return options, results


def describe(options, results):
    """What every table says of the model and the texts."""
    first = results[0][1]
    note = json.loads(subprocess.run([options.bisup, "inspect", options.model, "--json"], check=True,
                                     stdout=subprocess.PIPE).stdout)
    float_nll, windows = first["float_nll"], len(first["window_nll"])
    return f"""Model: `{os.path.basename(os.path.normpath(options.model))}`, {note['parameters'] / 1e6:.1f} M parameters; float = its own
weights ({note['float_weights']}), perplexity {math.exp(float_nll):.3f} (NLL {float_nll:.4f}).
Text: `{os.path.basename(options.text)}`, {windows} windows of {first['context']} tokens. Calibration:
`{os.path.basename(options.calib)}`, seed {options.seed}"""


def machines(results):
    return "; ".join(sorted({f"{result['machine']}, {result['threads']} threads" for _, result in results}))
