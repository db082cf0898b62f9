# SPDX-License-Identifier: Apache-2.0
"""What does BiSup's tuning gain? Tunes a model on top of each base and prints the tables of docs/bisup.md.

    python3 bench/accuracy/tuned.py --model MODEL.gguf --calib CALIB.txt --text TEST.txt --second-text OTHER.txt

`--part gain` (the default) is the table of the preset `default` against its bases; `--part ingredients` takes
the preset `fast` and learns one thing at a time, with the base at smaller groups beside it. A run that was
stopped goes on where it was (rows.py). --only chooses rows, --table prints what there is.
"""

import argparse
import math

import rows

BASES = ["atom", "quarot"]
BITS = ["W4A8KV8", "W4A4KV4", "W3A3KV3"]
PAPERS = {"atom": ["--act-clip", "0.9", "--kv-clip", "1"], "quarot": ["--act-clip", "0.9", "--kv-clip", "0.95"]}
# What the preset `default` was to reach: the share of its base's gap and the gap in nats a token.
TARGETS = {
    ("atom", "W4A8KV8"): (0.50, 0.06), ("atom", "W4A4KV4"): (0.50, 0.22), ("atom", "W3A3KV3"): (0.62, 0.80),
    ("quarot", "W4A8KV8"): (0.52, 0.055), ("quarot", "W4A4KV4"): (0.58, 0.24), ("quarot", "W3A3KV3"): (0.70, 0.95),
}
BASE_DATA = ["--calib-samples", "24", "--calib-length", "2048"]
NOTHING = ["--learn", "none", "--rank", "0"]
LEARNED = "clips,scales,biases,norms"  # beside branches, by the recipe itself
# One ingredient at a time, learned block by block and end to end; then stages; then all. Without a prompt, unless it is
# named.
INGREDIENTS = {
    "prompt": [*NOTHING, "--cache-prompt", "bos"],
    "smoothing": ["--learn", "smoothing", "--rank", "0"],
    "clips and scales": ["--learn", "clips,scales", "--rank", "0"],
    "biases": ["--learn", "biases", "--rank", "0"],
    "branches": ["--learn", "none"],
    "merged branches": ["--learn", "none", "--rank", "0", "--merged-rank", "32"],
    "all, blocks only": ["--end-to-end", "0"],
    "all, end to end only": ["--block-steps", "0"],
    "all": [],
    "all without branches": ["--rank", "0"],
    "all, branches merged": ["--rank", "0", "--merged-rank", "32"],
    "all and prompt": ["--cache-prompt", "bos"],
    "all and smoothing": ["--learn", f"{LEARNED},smoothing"],
    "all, smoothing and prompt": ["--learn", f"{LEARNED},smoothing", "--cache-prompt", "bos"],
}


class Row:
    def __init__(self, name, base, bits, what, arguments, group=64):
        self.name, self.base, self.bits, self.what, self.group = name, base, bits, what, group
        self.scheme = f"{bits}-g{group}-head16"
        self.arguments, self.calibrated = arguments, True


def gain_rows():
    made = []
    for bits in BITS:
        for base in BASES:
            at = f"{bits}-g64"
            made.append(Row(f"{base}:{at}", base, bits, base, ["--method", base, *BASE_DATA]))
            made.append(Row(f"{base}:{at}:papers", base, bits, f"{base}, papers' clips",
                            ["--method", base, *BASE_DATA, *PAPERS[base]]))
            made.append(Row(f"bisup_{base}:{at}:default", base, bits, f"bisup_{base}",
                            ["--method", f"bisup_{base}", "--preset", "default"]))
    return made


def ingredient_rows():
    made = []
    for bits in ["W4A4KV4", "W3A3KV3"]:
        for base in BASES:
            for group in (64, 32):
                made.append(Row(f"{base}:{bits}-g{group}", base, bits, f"{base}, groups of {group}",
                                ["--method", base, *BASE_DATA], group))
            for what, arguments in INGREDIENTS.items():
                prompt = [] if "--cache-prompt" in arguments else ["--cache-prompt", "none"]
                made.append(Row(f"bisup_{base}:{bits}-g64:fast:{what.replace(',', '').replace(' ', '_')}", base, bits,
                                what, ["--method", f"bisup_{base}", "--preset", "fast", *arguments, *prompt]))
    return made


def all_rows(options):
    return gain_rows() if options.part == "gain" else ingredient_rows()


def gaps(result):
    return [a - b for a, b in zip(result["window_nll"], result["float_window_nll"])]


def share_closed(base, tuned):
    """1 - gap / gap of the base and its standard error, windows paired: of a ratio of means, to first order."""
    before, after = gaps(base), gaps(tuned)
    ratio = sum(after) / sum(before)
    mean = sum(before) / len(before)
    _, error = rows.mean_and_error([(a - ratio * b) / mean for a, b in zip(after, before)])
    return 1 - ratio, error


def percent(share, error):
    return f"{100 * share:.1f}" + ("" if math.isnan(error) else f" \u00b1 {100 * error:.1f}") + " %"


def verdict(row, share, gap):
    least, most = TARGETS[row.base, row.bits]
    return ("" if share >= least and gap <= most else "**missed** ") + f"\u2265 {100 * least:.0f} %, \u2264 {most:g}"


def gain_table(results):
    by_name = {row.name: result for row, result in results}
    print("| model | gap, nats | closed | to reach | of the papers' clips | KL | second text: gap | closed | of the "
          "first's share | bits | memory |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for row, result in results:
        gap, error = rows.gap_of(result)
        base = by_name.get(f"{row.base}:{row.bits}-g64")
        papers = by_name.get(f"{row.base}:{row.bits}-g64:papers")
        tuned = row.what.startswith("bisup_")
        cells = [f"{row.what} {row.bits}-g{row.group}", rows.with_error(gap, error), "", "", "", rows.kl_of(result), "", "", "",
                 f"{result['bits_per_weight']:.3f}", f"{result['peak_memory_bytes'] / 1e6:.0f} MB"]
        if "second" in result:
            cells[6] = rows.with_error(*rows.gap_of(result["second"]))
        if tuned and base:
            share, of_share = share_closed(base, result)
            cells[2], cells[3] = percent(share, of_share), verdict(row, share, gap)
            if "second" in result and "second" in base:
                second, of_second = share_closed(base["second"], result["second"])
                of_first = second / share
                of_ratio = abs(of_first) * math.hypot(of_second / second, of_share / share)  # texts are independent
                cells[7], cells[8] = percent(second, of_second), f"{of_first:.2f} \u00b1 {of_ratio:.2f}"
        if tuned and papers:
            cells[4] = percent(*share_closed(papers, result))
        print("| " + " | ".join(cells) + " |")


def ingredient_table(results):
    by_name = {row.name: result for row, result in results}
    print("| base | bits of codes | learned | bits a weight | gap, nats | closed | KL |")
    print("|---|---|---|---:|---:|---:|---:|")
    for row, result in results:
        base = by_name.get(f"{row.base}:{row.bits}-g64")
        closed = percent(*share_closed(base, result)) if base and base is not result else ""
        print("| " + " | ".join([row.base, row.bits, row.what, f"{result['bits_per_weight']:.3f}",
                                 rows.with_error(*rows.gap_of(result)), closed, rows.kl_of(result)]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    rows.add_options(parser)
    parser.add_argument("--part", choices=["gain", "ingredients"], default="gain")
    options, results = rows.measure(parser, all_rows)
    print(rows.describe(options, results) + f". Measured on {rows.machines(results)}.\n")
    print(f"By `python3 bench/accuracy/tuned.py --part {options.part}`:\n")
    (gain_table if options.part == "gain" else ingredient_table)(results)


if __name__ == "__main__":
    main()
