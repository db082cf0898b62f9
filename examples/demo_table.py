# SPDX-License-Identifier: Apache-2.0
"""What did the demo measure? Prints its results as one table and draws them as a picture.

    python3 examples/demo_table.py build/demo MODEL_IS FLOAT_IS TEXT_IS      the table, in Markdown
    python3 examples/demo_table.py build/demo --publish    draws docs/demo.svg, copies build/demo.md
                                                           into README.md
"""

import json
import os
import sys


def read(folder, name):
    path = os.path.join(folder, name + ".json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def rows(folder):
    schemes = sorted({name.split(".")[0] for name in os.listdir(folder) if ".compare." in name},
                     key=lambda scheme: read(folder, scheme + ".compare")["kl_mean"])
    reference = read(folder, schemes[0] + ".compare")
    for name in ["float"] + schemes:
        inspect, bench = read(folder, name + ".inspect"), read(folder, name + ".bench")
        compare = read(folder, name + ".compare") or {
            "perplexity": reference["reference_perplexity"],
            "nll_stderr": reference["reference_nll_stderr"], "kl_mean": 0.0}
        speed = {result["n_gen"] > 0: result["avg_ts"] for result in bench["results"]}
        yield {"scheme": name.replace("+", " "), "bits": inspect["bits_per_weight"], "bytes": inspect["file_bytes"],
               "perplexity": compare["perplexity"],
               "error": compare["perplexity"] * (compare["nll_stderr"] or 0.0),
               "kl": compare["kl_mean"], "prefill": speed[False], "decode": speed[True],
               "threads": bench["results"][0]["n_threads"]}, reference


def table(folder, model_is, float_is, text_is):
    print("| scheme | bits per weight | file size | perplexity | KL to float | prefill t/s | decode t/s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row, reference in rows(folder):
        print(f"| {row['scheme']} | {row['bits']:.2f} | {row['bytes'] / 1e6:.1f} MB "
              f"| {row['perplexity']:.2f} \u00b1 {row['error']:.2f} | {row['kl']:.4f} "
              f"| {row['prefill']:.0f} | {row['decode']:.1f} |")
    print()
    print(f"Made by `bash examples/demo.sh`. Model: {model_is}. float: {float_is}. Rounded to "
          f"nearest where no method is named; lm_head f16. Text: {text_is}, the first half, {reference['windows']} windows of "
          f"{reference['context']} tokens, \u00b1 one standard error; KL divergence is a mean over "
          f"{reference['tokens']} tokens, in nats; quarot and bisup_quarot (`--preset demo`) are calibrated on "
          f"the second half. Speed: {row['threads']} threads.")


def picture(folder, path):
    """Three panels of bars: how much is stored, how fast it is, how much is lost."""
    data = [row for row, _ in rows(folder)]
    panels = [("file size, MB", "bytes", 1e-6, "{:.0f}"), ("decode, tokens/s", "decode", 1, "{:.0f}"),
              ("KL to float, nats", "kl", 1, "{:.3f}")]
    width, bar, left = 250, 26, 200
    height = 44 + bar * len(data)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width * len(panels)}" '
           f'height="{height}" font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="white"/>']
    for i, row in enumerate(data):
        out.append(f'<text x="{left - 8}" y="{36 + bar * i + 16}" text-anchor="end">{row["scheme"]}</text>')
    for p, (title, key, unit, form) in enumerate(panels):
        x, most = left + width * p, max(row[key] for row in data)
        out.append(f'<text x="{x}" y="22" font-weight="bold">{title}</text>')
        for i, row in enumerate(data):
            length, y = (width - 70) * row[key] / most, 36 + bar * i
            color = "#8a8a8a" if row["scheme"] == "float" else "#2f6f9f"
            out.append(f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{bar - 6}" fill="{color}"/>')
            out.append(f'<text x="{x + length + 5:.1f}" y="{y + 15}">{form.format(row[key] * unit)}</text>')
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def publish(folder):
    picture(folder, "docs/demo.svg")
    with open(folder + ".md", encoding="utf-8") as file:
        table_text = file.read()
    with open("README.md", encoding="utf-8") as file:
        before, rest = file.read().split("<!-- the demo's table -->\n")
    behind = rest.split("<!-- its end -->\n")[1]
    with open("README.md", "w", encoding="utf-8") as file:
        file.write(f"{before}<!-- the demo's table -->\n{table_text}<!-- its end -->\n{behind}")


if sys.argv[2] == "--publish":
    publish(sys.argv[1])
else:
    table(*sys.argv[1:])
