# SPDX-License-Identifier: Apache-2.0
"""What does a stored prompt give: as context, and for being exact? Prints a table.

    python3 bench/accuracy/prompts.py --model MODEL.gguf --calib CALIB.txt --text TEST.txt

Every window follows the prompt, whose tokens are not scored, and both models read it: *context* is what it does
to the float model, *exact* what it gives the quantized model that its keys and values are not rounded as the
others are. A run that was stopped goes on where it was (rows.py). --only chooses rows, --table prints what there is.
"""

import argparse

import rows

BASES = ["quarot", "atom"]
BITS = ["W4A4KV4", "W3A3KV3"]
PROMPTS = {"bos": "bos", "auto": "auto", "text": "text:You are a helpful assistant."}


class Row:
    def __init__(self, base, bits, prompt):
        self.base, self.bits, self.prompt = base, bits, prompt
        self.name = f"{base}:{bits}-g64"
        self.scheme, self.calibrated = f"{bits}-g64-head16", True
        self.arguments = ["--method", base, "--calib-samples", "24", "--calib-length", "2048"]
        if prompt:  # without one it is the row of baselines.py
            self.name += f":prompt:{prompt}"
            self.arguments += ["--cache-prompt", PROMPTS[prompt]]


class Bench(rows.Bench):
    """Measures the model with its prompt rounded as well."""

    def compare(self, row, path, text=None):
        result = super().compare(row, path, text)
        prompt = self.ask("inspect", path).get("prompt_tokens", 0)
        result["prompt_tokens"] = prompt
        if prompt > 0:
            bits = row.bits.split("KV")[1]
            rounded = self.ask("perplexity", path, *self.windows(text), "--cache-prompt-bits", bits)
            result["rounded_prompt_nll"] = rounded["window_nll"]
        return result


def all_rows(_):
    return [Row(base, bits, prompt) for bits in BITS for base in BASES for prompt in [None, *PROMPTS]]


def difference(before, after):
    return rows.with_error(*rows.mean_and_error([a - b for a, b in zip(after, before)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    rows.add_options(parser)
    options, results = rows.measure(parser, all_rows, Bench)
    print(rows.describe(options, results) + f". Measured on {rows.machines(results)}.\n")
    print("By `python3 bench/accuracy/prompts.py`, NLL in nats:\n")
    print("| model | prompt | tokens | float | quantized, prompt rounded | quantized | gap | context | exact |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    plain = {(row.base, row.bits): result for row, result in results if row.prompt is None}
    for row, result in results:
        mean = {key: rows.mean_and_error(result[key])[0] for key in ("float_window_nll", "window_nll")}
        rounded = result.get("rounded_prompt_nll")
        without = plain.get((row.base, row.bits))
        tokens = result.get("prompt_tokens", 0)
        print("| " + " | ".join([
            f"{row.base} {row.bits}-g64", row.prompt or "none", str(tokens), f"{mean['float_window_nll']:.4f}",
            f"{rows.mean_and_error(rounded)[0]:.4f}" if rounded else "", f"{mean['window_nll']:.4f}",
            rows.with_error(*rows.gap_of(result)),
            difference(without["float_window_nll"], result["float_window_nll"]) if tokens and without else "",
            difference(rounded, result["window_nll"]) if rounded else ""]) + " |")


if __name__ == "__main__":
    main()
