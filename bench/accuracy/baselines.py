# SPDX-License-Identifier: Apache-2.0
"""How good are the baselines? Quantizes a model by each recipe and scheme and prints docs/accuracy.md.

    python3 bench/accuracy/baselines.py --model MODEL.gguf --calib CALIB.txt --text TEST.txt

A run that was stopped goes on where it was (rows.py); `--rows docs/accuracy_rows.jsonl --keep-rows` goes on
from the rows that the docs show. --only chooses rows, --table prints what there is and
measures nothing.
"""

import argparse
import math

import rows

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
    def __init__(self, recipe, bits, group, papers, options):
        self.recipe, self.bits, self.group, self.papers = recipe, bits, group, papers
        self.scheme = f"{bits}-g{group}-head16"
        self.name = f"{recipe}:{bits}-g{group}" + (":papers" if papers else "")
        self.target = None if papers or group != 64 else TARGETS.get((recipe, bits))
        self.calibrated = recipe != "rtn"
        self.arguments = ["--method", recipe]
        if self.calibrated:
            self.arguments += ["--calib-samples", str(options.samples), "--calib-length", str(options.length)]
        if papers:
            self.arguments += ["--act-clip", PAPERS[recipe][0], "--kv-clip", PAPERS[recipe][1]]

    def clips(self):
        """Their column: where the clips of activations and of the cache come from."""
        if self.recipe == "rtn":
            return "none"
        return " / ".join(PAPERS[self.recipe]) if self.papers else "searched"


def all_rows(options):
    return [Row(recipe, bits, group, papers, options) for group in GROUPS for bits in BITS for recipe in RECIPES
            for papers in ([False] if recipe == "rtn" else [False, True])]


def target_of(row, gap):
    if row.target is None:
        return ""
    return ("" if gap <= row.target else "**missed** ") + f"\u2264 {row.target:g}"


def line_of(row, result):
    gap, error = rows.gap_of(result)
    perplexity = math.exp(sum(result["window_nll"]) / len(result["window_nll"]))
    cells = [row.recipe, row.clips(), rows.with_error(gap, error), target_of(row, gap), f"{perplexity:.2f}",
             rows.kl_of(result), f"{result['bits_per_weight']:.3f}"]
    simulated = result["simulated_window_nll"]
    if simulated:
        other = math.exp(sum(simulated) / len(simulated))
        apart, error = rows.mean_and_error([a - b for a, b in zip(result["window_nll"], simulated)])
        cells.append(f"{other:.2f} ({100 * math.expm1(apart):+.2f} \u00b1 {100 * error:.2f} %)")
    else:
        cells.append("")
    cells.append(f"{result['peak_memory_bytes'] / 1e6:.0f} MB")
    return "| " + " | ".join(cells) + " |"


def header(options, results):
    return f"""# Accuracy of the baselines

{rows.describe(options, results)}, {options.samples} samples of {options.length} tokens.

*Gap* is the mean NLL minus the float model's on the same windows, paired, \u00b1 one standard error over
windows; *target* is what was to be reached. *KL* is KL(float || model) in nats a token. *Bits* counts
scales, zero points, keepers and padding of all linears; embeddings and lm_head are f16. *Clips* are
searched on held-out calibration text, or the papers' constants (activations / cache). *Simulated* is
the perplexity of the same codes in float arithmetic and how far the packed model is from it, paired by
window, \u00b1 one standard error.
*Memory* is the peak of `bisup quantize`; bench/peers/calibration.py measures its time. Measured on {rows.machines(results)};
the rows, window by window, are in `docs/accuracy_rows.jsonl`."""


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
    rows.add_options(parser)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--length", type=int, default=2048)
    options, results = rows.measure(parser, all_rows)
    table(options, results)


if __name__ == "__main__":
    main()
