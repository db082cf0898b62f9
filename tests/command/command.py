# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Does the command keep what docs/command.md says? Runs it on examples/tiny_llama.

    python3 tests/command/command.py build/release/bin/bisup GROUP

GROUP is one of the functions below whose names begin with test_.
"""

import concurrent.futures
import http.client
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from html.parser import HTMLParser

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY = os.path.join(ROOT, "examples", "tiny_llama")
TEXT = os.path.join(TINY, "eval.txt")
PICTURE = os.path.join(ROOT, "examples", "report_picture.py")
SMALL = ["--text", TEXT, "--context", "64", "--windows", "3"]
CALIBRATE = ["quantize", TINY, "--method", "quarot", "--scheme", "W4A4KV4-g32", "--calib", TEXT,
             "--calib-samples", "6", "--calib-length", "64"]


def run(*arguments, stdin="", environment=None, **options):
    return subprocess.run([BISUP, *arguments], input=stdin.encode(), timeout=60,
                          env={**os.environ, **(environment or {})},
                          stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, **options)


def check(condition, *what):
    if not condition:
        sys.exit("failed: " + " ".join(str(w) for w in what))


def ask(*arguments, **options):
    done = run(*arguments, "--json", **options)
    check(done.returncode == 0, arguments, done.stderr.decode())
    check(done.stderr == b"", arguments, "is not quiet:", done.stderr.decode())
    return json.loads(done.stdout)  # refuses NaN only where we look; the text must be one object


def refuse(status, words, *arguments, **options):
    done = run(*arguments, **options)
    message = done.stderr.decode()
    check(done.returncode == status, arguments, "exits with", done.returncode, message)
    check(message.startswith("bisup: ") and message.count("\n") == 1, arguments, "says", repr(message))
    for word in words:
        check(word in message, arguments, "does not mention", word, "but says", message)


def paths(value, prefix=""):
    """The fields of an object as the documents spell them: results[].n_prompt"""
    found = set()
    for key, inner in value.items():
        found.add(prefix + key)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            found |= paths(inner[0], prefix + key + "[].")
    return found


def documented(subcommand):
    with open(os.path.join(ROOT, "docs", "command.md"), encoding="utf-8") as file:
        section = re.search(rf"^## {subcommand}\n(.*?)(?=^## |\Z)", file.read(), re.M | re.S).group(1)
    return set(re.findall(r"^\| `([a-z0-9_\[\].]+)` \|", section, re.M))


def artefact(folder, scheme="W4A8KV4-g64"):
    path = os.path.join(folder, scheme + ".safetensors")
    return path, ask("quantize", TINY, "--scheme", scheme, "-o", path)


# Few, short crops: what is tested is what the command says, not how good the model is.
SAMPLES = ["--calib", TEXT, "--calib-samples", "4", "--calib-length", "128"]


def calibrated(folder, method="atom", scheme="W4A4KV4-g64", *more):
    path = os.path.join(folder, method + ".safetensors")
    return path, ask("quantize", TINY, "--method", method, "--scheme", scheme, *SAMPLES, *more, "-o", path)


def test_fields():
    with tempfile.TemporaryDirectory() as folder:
        small, rounded = artefact(folder)
        check(rounded["layers"] == [], "nothing was calibrated", rounded)
        finished = os.path.join(folder, "calibrated.safetensors")
        answers = {
            "quantize": ask(*CALIBRATE, "-o", finished),
            "quantize --dry-run": ask(*CALIBRATE, "-o", finished, "--dry-run"),
            "perplexity": ask("perplexity", TINY, *SMALL, "--scheme", "W4A4KV4-g64"),
            "compare": ask("compare", small, "--reference", TINY, *SMALL, "--propagation"),
            "generate": ask("generate", small, "--prompt", "Once upon", "-n", "8"),
            "chat": ask("chat", small, "-n", "8", stdin="hello\n"),
            "tokenize": ask("tokenize", TINY, "--text", "one two"),
            "inspect": ask("inspect", small, "--verify", "--statistics", "--text", TEXT),
            "bench": ask("bench", small, "-p", "8", "-n", "4", "-d", "0,16", "-t", "1,2", "-r", "2"),
        }
    for subcommand, answer in answers.items():
        check(paths(answer) == documented(subcommand), subcommand, "and its documents differ by",
              paths(answer) ^ documented(subcommand))
    check(rounded["scheme"] == "W4A8KV4-g64-head16", rounded)
    check([layer["layer"] for layer in answers["quantize"]["layers"]] == [0, 1, 2, 3], answers["quantize"])
    check(answers["quantize"]["end_to_end_before"] is None, "quarot tunes nothing")
    check(answers["inspect"]["verified"] is True, "verify")
    check(answers["inspect"]["bits_per_weight"] == 4.25, "4 bits and 16 for 64", answers["inspect"])
    check(answers["tokenize"]["ids"] and len(answers["tokenize"]["ids"]) == len(answers["tokenize"]["tokens"]),
          answers["tokenize"])
    results = [(r["n_prompt"], r["n_gen"], r["n_depth"], r["n_threads"]) for r in answers["bench"]["results"]]
    check(results == [(p, n, d, t) for t in (1, 2) for d in (0, 16) for p, n in ((8, 0), (0, 4))], results)
    check(all(r["avg_ts"] > 0 and len(r["samples_ts"]) == 2 for r in answers["bench"]["results"]), "bench")


def test_numbers():
    """Numbers that are linked by laws, and null where there is none."""
    float_ = ask("perplexity", TINY, *SMALL)
    check(float_["tokens"] == 3 * 63 and float_["windows"] == 3 and float_["context"] == 64, float_)
    one = ask("perplexity", TINY, *SMALL[:-1], "1")
    check(one["nll_stderr"] is None, "one window has no deviation", one)
    half = ask("perplexity", TINY, *SMALL, "--score-from", "32")
    check(half["tokens"] == 3 * 31 and half["score_from"] == 32, "half of each window is scored", half)
    with tempfile.TemporaryDirectory() as folder:
        small, _ = artefact(folder)
        compared = ask("compare", small, "--reference", TINY, *SMALL)
        alone = ask("perplexity", small, *SMALL)
        traveled = ask("compare", small, "--reference", TINY, *SMALL, "--propagation")
        simulated = ask("perplexity", TINY, *SMALL, "--scheme", "W4A8KV4-g64")
    check(compared["reference_nll"] == float_["nll"], "the same loop, the same numbers")
    check(compared["reference_window_nll"] == float_["window_nll"], "window by window")
    check(compared["window_nll"] == alone["window_nll"], "window by window")
    with tempfile.TemporaryDirectory() as folder:
        # The same weights, rounded to nearest; only the artefact's policy says how the cache is clipped.
        clipped = [ask("perplexity", calibrated(folder, "rtn", "W8A8KV3-g64", "--kv-clip", clip)[0], *SMALL)["nll"]
                   for clip in ("1", "0.3")]
    check(clipped[1] > clipped[0] + 0.01, "the cache is kept as it was calibrated to be", clipped)
    check(compared["nll"] == alone["nll"], "the same loop, the same numbers")
    check(0 < compared["kl_mean"] < 1 and compared["kl_mean"] < compared["kl_p99"], compared)
    # Integers and their simulation differ by the order of sums, and here and there by one code.
    check(abs(simulated["nll"] - alone["nll"]) < 0.02, simulated["nll"], alone["nll"])
    check(ask("compare", TINY, "--reference", TINY, *SMALL)["top1_agreement"] == 1, "with itself")
    check(compared["layers"] == [] and len(traveled["layers"]) == 4, "only if asked", traveled["layers"])
    for layer in traveled["layers"]:
        ranges = [(source["first"], source["last"]) for source in layer["sources"]]
        check(ranges == [(0, 0), (1, 3), (4, 15), (16, 63)], "all source tokens, once", ranges)
        check(layer["stream_error"] > 0 and layer["cache_error"] > 0, layer)
    answers = [ask("generate", TINY, "--prompt", "Once", "-n", "12", "--temperature", "1", "--seed", s)["tokens"]
               for s in ("1", "1", "2")]
    check(answers[0] == answers[1] != answers[2], "seeds", answers)
    one = ask("generate", TINY, "--prompt", "Once", "-n", "1")
    check(len(one["tokens"]) == 1 and one["tokens_per_second"] is None, "one token has no rate", one)
    text = ask("generate", TINY, "--prompt", "Once upon a time", "-n", "12")["text"]
    stopped = ask("generate", TINY, "--prompt", "Once upon a time", "-n", "12", "--stop", text[4:7])
    check(stopped["finish"] == "stop" and stopped["text"] == text[:text.index(text[4:7])], stopped)
    special = ask("tokenize", TINY, "--text", "<|im_end|>")["ids"]
    plain = ask("tokenize", TINY, "--text", "<|im_end|>", "--no-parse-special")["ids"]
    check(len(special) == 1 and len(plain) > 1, special, plain)
    said = ask("generate", TINY, "--chat", "--prompt", "a<|im_end|>b", "-n", "1")["prompt_tokens"]
    check(said - ask("generate", TINY, "--chat", "--prompt", "ab", "-n", "1")["prompt_tokens"] >= len(plain) - 1,
          "what people write is no special token")
    turns = ask("chat", TINY, "-n", "4", stdin="one\n\ntwo\n/reset\nthree\n/quit\nfour\n")["turns"]
    check([t["user"] for t in turns] == ["one", "two", "three"], turns)


class PageReader(HTMLParser):
    """The report's numbers by name, its heat maps, and whatever it would fetch from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.numbers, self.heat_maps, self.ids, self.outside, self.open = {}, {}, [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta",):
            self.open.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "data":
            self.numbers[attributes["data-field"]] = float(attributes["value"])
        if attributes.get("id", "").startswith("heat-"):
            self.heat_maps[attributes["id"]] = 0
        heat = [a["id"] for _, a in self.open if a.get("id", "").startswith("heat-")]
        if tag == "svg" and heat and any("side" == a.get("class") for _, a in self.open):
            self.heat_maps[heat[0]] += 1
        self.outside += [tag] if tag in ("script", "link", "iframe", "img", "object") else []
        self.outside += [v for k, v in attributes.items()
                         if k in ("src", "href") and not (v or "").startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta",):
            self.open.pop()

    def handle_endtag(self, tag):
        check(self.open and self.open[-1][0] == tag, "the page closes", tag, "inside", self.open[-1:])
        self.open.pop()


def read_page(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    xml.etree.ElementTree.fromstring(text)  # well-formed, or this throws
    page = PageReader(text)
    check(not page.open, "left open", page.open)
    check(len(page.ids) == len(set(page.ids)), "an id twice", page.ids)
    check(not page.outside and "url(http" not in text and "@import" not in text, "not alone:", page.outside)
    return page


def same_numbers(page, source, answer):
    """How many of the page's numbers are of `source`; each must equal the JSON's to the bit."""
    found = 0
    for field, value in page.numbers.items():
        if not field.startswith(source + "/"):
            continue
        place = answer
        for step in field.split("/")[1:]:
            place = place[int(step) if isinstance(place, list) else step]
        check(place == value, field, "is", value, "on the page and", place, "in the JSON")
        found += 1
    return found


def test_explain():
    """What an option changes of a method, and what it leaves."""
    explain = lambda *options: run("quantize", "--explain", *options).stdout.decode()
    check("range times 0.85 on the grid of 2^b codes" in explain("--method", "atom"), "atom's own")
    check("range times 0.9 on the grid of 2^b codes" in explain("--method", "atom", "--weight-clip", "0.9"),
          explain("--method", "atom", "--weight-clip", "0.9"))
    check("range times 0.9," not in explain("--method", "gptq"), explain("--method", "gptq"))
    check("range times 0.9" in explain("--method", "gptq", "--weight-clip", "0.9"), "instead of a search")
    tuned = lambda *options: re.search("^  tuning.*", explain("--method", "bisup_atom", *options), re.M).group(0)
    check("clips, scales of weights, biases, norm gains" in tuned(), tuned())
    check("rank" in tuned() and "rank" not in tuned("--rank", "0"), tuned("--rank", "0"))
    check("scales of weights:" in tuned("--learn", "scales") and "clips" not in tuned("--learn", "scales"), tuned())
    check("takes 0.5 of the error off" in tuned("--branch-energy", "0.5"), tuned("--branch-energy", "0.5"))
    check("regression" in tuned("--branch-start", "regression") and "regression" not in tuned(), tuned())
    check("rank 8 merged" in tuned("--merged-rank", "8") and "merged" not in tuned(), tuned("--merged-rank", "8"))
    check("smoothing" in tuned("--learn", "norms,smoothing"), tuned("--learn", "norms,smoothing"))
    check("scales" not in tuned("--learn", "none"), tuned("--learn", "none"))
    check("24 steps a block, 120 end to end" in tuned("--preset", "fast"), tuned("--preset", "fast"))
    check(tuned() == tuned("--preset", "default"), tuned())
    check("3 steps a block, 0 end to end" in tuned("--block-steps", "3", "--end-to-end", "0"), tuned())
    check("token that begins a text" in explain("--method", "bisup_atom"), explain("--method", "bisup_atom"))
    for options in (["atom"], ["bisup_atom", "--cache-prompt", "none"]):
        check("token that begins" not in explain("--method", *options), options)


def test_preset():
    """A preset also says how many samples, and how many of them are the model's own, unless the command line does."""
    def told(*options):
        return ask("quantize", TINY, "--scheme", "W4A4-g32", "--calib", TEXT, "--dry-run", *options)

    def samples(*options):
        """Those that the streams carry, held-out ones included: most are in both."""
        return told(*options, "--calib-length", "64")["memory"]["streams"] // (64 * 128 * 4)
    tokens = lambda *options: told(*options)["tokens"]
    check(tokens("--method", "atom", "--calib-length", "64") == 24 * 64, "a base has its own")
    check(tokens("--method", "bisup_atom", "--preset", "demo") == 16 * 256, "demo")
    check(tokens("--method", "bisup_atom") == 200 * 256, "default")
    check(tokens("--method", "bisup_atom", "--calib-length", "64") == 200 * 64, "a length of one's own")
    check(tokens("--method", "bisup_atom", "--calib-samples", "3") == 3 * 256, "a number of one's own")
    # One of six samples is held out besides, eight at most: of the text's 120 and of the model's 80.
    ask_for = lambda *options: samples("--method", "bisup_atom", *options)
    none = ["--end-to-end-tokens", "0"]
    check(ask_for(*none) == 2 * (200 + 8 + 8), "own samples")
    check(ask_for("--end-to-end", "0") == 2 * (200 + 8 + 8), "nothing that reads more")
    check(ask_for(*none, "--self-generate", "0") == 2 * (200 + 8), "none of them")
    check(ask_for(*none, "--self-generate", "12") == 2 * (200 + 8 + 2), "some of them")
    check(ask_for("--end-to-end-tokens", "320", "--end-to-end-length", "64", "--calib-samples", "12") ==
          2 * (12 + 2) + 5, "some for the end")
    # All that the text has between samples but for less than one of 64 tokens beside each.
    everything = ask_for("--calib-samples", "6") - 2 * (6 + 1)
    check(30 < everything < 1200, everything)
    fewer = ask_for("--calib-samples", "30") - 2 * (30 + 5)
    check(24 + 4 <= everything - fewer <= 2 * (24 + 4), (everything, fewer))
    check(ask_for() > 2 * (200 + 8 + 8), "default")
    refuse(2, ["--end-to-end-tokens", "tunes all blocks"], "quantize", TINY, "--scheme", "W4A4-g32", "--method", "atom",
           "--calib", TEXT, "--dry-run", "--end-to-end-tokens", "3")


def picture(page, name, path):
    subprocess.run([sys.executable, PICTURE, page, name, path], check=True)
    with open(path, encoding="utf-8") as file:
        return file.read()


def test_report():
    """The page is well-formed, needs nothing else, and says the same as --json."""
    inputs = {"heat-attention", "heat-output", "heat-mlp", "heat-down"}
    window = ["--text", TEXT]
    with tempfile.TemporaryDirectory() as folder:
        html = os.path.join(folder, "a \"<&>\" page.html")
        text = os.path.join(folder, "text & more.txt")
        with open(TEXT, encoding="utf-8") as file, open(text, "w", encoding="utf-8") as short:
            short.write(file.read()[:6000])
        path, answer = calibrated(folder, "atom", "W4A4KV4-g64", "--report", html, "--report-text", text)
        page = read_page(html)
        check(set(page.heat_maps) == inputs, "one heat map an input", page.heat_maps)
        check(all(maps == 2 for maps in page.heat_maps.values()), "before and after", page.heat_maps)
        layers = len(answer["layers"])
        # loss, held_out_loss, six clips, and error and damping of seven linears; two of the whole.
        check(same_numbers(page, "quantize", answer) == layers * (2 + 6 + 14) + 2, page.numbers)
        compared = ask("compare", path, "--reference", TINY, "--text", text, "--windows", "16")
        check(same_numbers(page, "compare", compared) == 7, page.numbers)
        check({"vertical", "horizontal"} <= set(page.ids), "both directions", page.ids)
        # Charts of it, as pictures that need no style sheet: one a side, and the heat maps' scale.
        for name, charts in (("directions", 3), ("down", 3)):
            drawn = picture(html, name, os.path.join(folder, name + ".svg"))
            check(drawn.count("<svg") == 1 + charts and "var(" not in drawn, "a picture of " + name, drawn[:300])
        with open(html, encoding="utf-8") as whole, open(text + ".html", "w", encoding="utf-8") as cut:
            cut.write(whole.read()[:20000])
        for bad in ((html, "no-such-input"), (text + ".html", "down"), ("nowhere", "down")):
            done = subprocess.run([sys.executable, PICTURE, *bad, os.path.join(folder, "bad.svg")],
                                  stderr=subprocess.PIPE, check=False)
            check(done.returncode == 1 and done.stderr.decode().startswith(bad[0] + ": "), bad, done.stderr)
            check(not os.path.exists(os.path.join(folder, "bad.svg")), "nothing was drawn of", bad)
        # QuaRot's rotations are undone for the left side. A base is told beside.
        _, answer = calibrated(folder, "quarot", "W4A4-g64", "--report", html, "--report-text", text,
                               "--report-base", path)
        page = read_page(html)
        check(same_numbers(page, "base", compared) == 5, "what compare says of the base", page.numbers)
        check("vertical" in page.ids and "horizontal" not in page.ids, "an exact cache", page.ids)
        page = read_page(html)
        check(all(maps == 2 for maps in page.heat_maps.values()), "before and after", page.heat_maps)
        # Nothing moved: one side each. Nothing calibrated: no heat map, and bits all the same.
        calibrated(folder, "gptq", "W4A16-g64", "--report", html)
        page = read_page(html)
        check(all(maps == 1 for maps in page.heat_maps.values()), "nothing moved", page.heat_maps)
        rtn = os.path.join(folder, "rtn.safetensors")
        answer = ask("quantize", TINY, "--scheme", "W4A8-g64", "-o", rtn, "--report", html)
        page = read_page(html)
        check(not page.heat_maps and same_numbers(page, "quantize", answer) == 2, page.numbers)
        # A page that cannot be made is refused before anything is.
        os.remove(rtn), os.remove(html)
        refuse(1, ["absent", "cannot write"], "quantize", TINY, "--scheme", "W4A8-g64", "-o", rtn, "--report",
               os.path.join(folder, "absent", "page.html"))
        refuse(1, ["nowhere"], "quantize", TINY, "--scheme", "W4A8-g64", "-o", rtn, "--report", html,
               "--report-text", "nowhere")
        refuse(1, ["nowhere"], "quantize", TINY, "--scheme", "W4A8-g64", "-o", rtn, "--report", html,
               "--report-text", text, "--report-base", "nowhere")
        check(not os.path.exists(rtn) and not os.path.exists(html), "nothing was made", os.listdir(folder))
    refuse(2, ["--report"], "quantize", TINY, "--scheme", "W4A8-g64", "-o", "x", "--report-text", "x")
    refuse(2, ["--statistics"], "inspect", TINY, *window)


def test_statistics():
    """What inspect says of an artefact is what its recipe did."""
    with tempfile.TemporaryDirectory() as folder:
        path, answer = calibrated(folder, "atom", "W3A4KV4-g64")
        atom = ask("inspect", path, "--statistics", "--text", TEXT)
        rotated = ask("inspect", calibrated(folder, "quarot", "W4A4KV4-g64")[0], "--statistics")
    float_ = ask("inspect", TINY, "--statistics", "--text", TEXT)
    check(ask("inspect", TINY)["statistics"] is None, "only if asked for")
    check(rotated["rotates_keys"] and not atom["rotates_keys"], "the cache")
    for layer, written, plain in zip(atom["statistics"], answer["layers"], float_["statistics"]):
        check({i["name"]: i["clip"] for i in layer["inputs"]} == written["clips"], layer["inputs"])
        check({h["key_clip"] for h in layer["heads"]} == {written["key_clip"]}, layer["heads"])
        check([(h["key_bits"], h["value_bits"]) for h in layer["heads"]] == [(4, 4)] * 2, layer["heads"])
        check([i["keepers"] for i in layer["inputs"]] == [32] * 4, "128 / 32 and 384 / 32 are one tile")
        for linear in layer["linears"]:
            check(0 < linear["smallest_scale"] <= linear["median_scale"] <= linear["largest_scale"], linear)
            # At 3 bits the outermost of seven levels are met often, and never by most.
            check(linear["format"] == "int3 g64 f16" and 0.01 < linear["end_codes"] < 0.5, linear)
        for ours, theirs in zip(layer["inputs"], plain["inputs"]):
            # Reordering keeps the elements; their origin is a damaged stream.
            check(ours["bits"] == 4 and theirs["bits"] == 16 and ours["rms"] > 0, ours)
            check(0.5 < ours["rms"] / theirs["rms"] < 2 and theirs["largest"] >= theirs["rms"], ours, theirs)
            check(theirs["kurtosis"] >= 1, "by Jensen's inequality", theirs)
    for layer in rotated["statistics"]:
        check([bool(i["rotation"]) for i in layer["inputs"]] == [False, True, False, True], layer["inputs"])
        check(layer["inputs"][0]["largest"] is None, "no text, no activations")
    refuse(1, ["too short"], "inspect", TINY, "--statistics", "--text", "-")


def test_demo():
    """examples/demo.sh from its first model to its last answer, with the tiny one for want of PyPI."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["bash", "../demo.sh", "--text", "eval.txt"], capture_output=True, timeout=590, cwd=TINY,
                              env={**os.environ, "BISUP": BISUP, "XDG_CACHE_HOME": folder, "PIP_NO_INDEX": "1"})
        told = done.stdout.decode()
        check(done.returncode == 0, told, done.stderr.decode())
        check(len(re.findall(r"^\| (?:float|W\dA\dKV\d-g64)", told, re.M)) == 7, told)
        check("| W4A4KV4-g64 bisup_quarot |" in told and "examples/tiny_llama" in told, told)
        check(re.search(r"^read: \d+ tokens .* written: \d+ tokens", told + done.stderr.decode(), re.M), told)


def test_prompt():
    """A stored prompt: in front of every window, exact unless told otherwise, the same for a reference."""
    words = "Once upon a time there was"
    said = ["--cache-prompt", "text:" + words]
    tokens = len(ask("tokenize", TINY, "--text", words)["ids"])
    ppl = lambda model, *options: ask("perplexity", model, *SMALL, *options)
    plain, read = ppl(TINY), ppl(TINY, *said)
    check(plain["prompt_tokens"] == 0 and read["prompt_tokens"] == tokens, read)
    check(plain["nll"] != read["nll"] and plain["tokens"] == read["tokens"], "context, and the same targets")
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "prompt.txt")
        with open(file, "w", encoding="utf-8") as out:
            out.write(words)
        check(ppl(TINY, "--cache-prompt", "@" + file)["nll"] == read["nll"], "from a file")
        scheme = "W4A8KV3-g64"
        without, _ = artefact(folder, scheme)
        path = os.path.join(folder, "prompted.safetensors")
        made = ask("quantize", TINY, "--scheme", scheme, *said, "-o", path)
        check(made["prompt_tokens"] == tokens, made)
        exact, bare = ppl(path), ppl(path, "--cache-prompt", "none")
        check(exact["prompt_tokens"] == tokens and bare["prompt_tokens"] == 0, bare)
        check(bare["nll"] == ppl(without)["nll"], "the weights are the same")
        check(exact["nll"] != ppl(without, *said)["nll"], "the float model's keys, not the quantized one's")
        check(exact["nll"] != ppl(path, "--cache-prompt-bits", "2")["nll"], "rounded")
        check(exact["nll"] == ppl(path, "--cache-prompt-bits", "16")["nll"], "exact is exact")
        # As in test_numbers: integers and their simulation, behind the float model's prompt.
        check(abs(ppl(TINY, *said, "--scheme", scheme)["nll"] - exact["nll"]) < 0.02, "simulated")
        # A gap is taken against the float model with the same prompt, unless it is to have none.
        compared = ask("compare", path, "--reference", TINY, *SMALL)
        check(compared["reference_nll"] == read["nll"] and compared["nll"] == exact["nll"], compared)
        check(compared["reference_prompt_tokens"] == compared["prompt_tokens"] == tokens, compared)
        compared = ask("compare", path, "--reference", TINY, *SMALL, "--bare-reference")
        check(compared["reference_nll"] == plain["nll"] and compared["nll"] == exact["nll"], compared)
        # A report's base has a prompt of its own, or none, and so has what it is compared with.
        html, long = os.path.join(folder, "page.html"), os.path.join(folder, "text.txt")
        with open(TEXT, encoding="utf-8") as source, open(long, "w", encoding="utf-8") as short:
            short.write(source.read()[:6000])
        ask("quantize", TINY, "--scheme", scheme, *said, "-o", path, "--report", html, "--report-text", long,
            "--report-base", without)
        for name, of in (("compare", path), ("base", without)):
            there = ask("compare", of, "--reference", TINY, "--text", long, "--windows", "16")
            check(same_numbers(read_page(html), name, there) >= 5, name)
        seen, other = ask("inspect", path), ask("inspect", without)
        check(seen["prompt_bytes"] == tokens * seen["layers"] * 2 * seen["kv_heads"] * seen["head_dim"] * 2, seen)
        check(seen["model_bytes"] - other["model_bytes"] == seen["prompt_bytes"], "counted")
        check(seen["bits_per_weight"] > other["bits_per_weight"], "and paid for")
        request = ["--prompt", words + " a little girl", "-n", "2"]
        check(ask("generate", without, *request)["prompt_tokens"]
              - ask("generate", path, *request)["prompt_tokens"] == tokens, "read once")
        benched = ask("bench", path, "-p", "8", "-n", "4", "-d", "0,16", "-b", "1,2", "-r", "1")
        check(len(benched["results"]) == 6, "what is counted stands behind the prompt", benched)
        learned, answer = calibrated(folder, "quarot", "W4A4KV4-g64", "--cache-prompt", "bos")
        check(answer["prompt_tokens"] == 1 and ppl(learned)["prompt_tokens"] == 1, answer)
        # Methods that tune have it so, unless they are told otherwise or the model has no such token.
        few = ["--block-steps", "1", "--end-to-end", "0"]
        _, answer = calibrated(folder, "bisup_rtn", "W4A4KV4-g64", *few)
        check(answer["prompt_tokens"] == 1, answer)
        _, answer = calibrated(folder, "bisup_rtn", "W4A4KV4-g64", *few, "--cache-prompt", "none")
        check(answer["prompt_tokens"] == 0, answer)
        nameless = os.path.join(folder, "nameless")
        shutil.copytree(TINY, nameless)
        for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
            with open(os.path.join(nameless, name), encoding="utf-8") as source:
                config = json.load(source)
            with open(os.path.join(nameless, name), "w", encoding="utf-8") as out:
                json.dump({key: value for key, value in config.items() if not key.startswith(("bos", "eos"))}, out)
        made = ["quantize", nameless, "--method", "bisup_rtn", "--scheme", "W4A4KV4-g64", *SAMPLES, *few,
                "-o", os.path.join(folder, "nameless.safetensors")]
        check(ask(*made)["prompt_tokens"] == 0, "no token begins a text")
        refuse(1, [nameless, "no token that begins"], *made, "--cache-prompt", "bos")
        _, answer = calibrated(folder, "atom", "W4A4KV4-g64", "--cache-prompt", "auto")
        check(answer["prompt_tokens"] == 0, "no token of this model is 64 times the others", answer)
        out = ["--scheme", "W4A8-g64", "-o", os.path.join(folder, "x")]
        refuse(1, ["nowhere", "cannot open"], "quantize", TINY, *out, "--cache-prompt", "@nowhere")
        refuse(1, ["--cache-prompt", "no words"], "quantize", TINY, *out, "--cache-prompt", "text:")
        for content, why in ((b"", "no words"), (b"\xff\xfe", "UTF-8"), (b"one " * 600, "512 positions")):
            with open(file, "wb") as broken:
                broken.write(content)
            for more in ([], SAMPLES):
                refuse(1, [file, why], "quantize", TINY, *out, *more, "--cache-prompt", "@" + file)
            refuse(1, [file, why], "perplexity", TINY, *SMALL, "--cache-prompt", "@" + file)
        refuse(1, ["auto", "--calib"], "quantize", TINY, *out, "--cache-prompt", "auto")
        for more in ([], SAMPLES):
            refuse(2, ["there is none"], "quantize", TINY, *out, *more, "--cache-prompt-bits", "4")
        refuse(2, ["there is none"], "perplexity", TINY, *SMALL, "--cache-prompt-bits", "4")
        check(not os.path.exists(out[-1]), "nothing was written")
    refuse(2, ["--cache-prompt", "frob"], "quantize", TINY, "--scheme", "W4A8", "-o", "x", "--cache-prompt", "frob")
    refuse(2, ["--cache-prompt"], "perplexity", TINY, *SMALL, "--cache-prompt", "auto")
    refuse(2, ["--cache-prompt-bits"], "perplexity", TINY, *SMALL, "--cache-prompt-bits", "5")


def test_reference_states():
    """What is kept of a reference gives the same numbers, and is no other reference's."""
    with tempfile.TemporaryDirectory() as folder:
        small, _ = artefact(folder)
        states = os.path.join(folder, "states.safetensors")
        plain = ask("compare", small, "--reference", TINY, *SMALL)
        answers, sizes = [], []
        for windows in ("2", "3", "3"):
            answers.append(ask("compare", small, "--reference", TINY, *SMALL[:-1], windows,
                               "--reference-states", states))
            sizes.append(os.path.getsize(states))
        # 64 tokens of 128 floats and their ids; a header of a few hundred bytes for each more.
        window = 64 * (128 + 1) * 4
        check(window < sizes[1] - sizes[0] < window + 1000 and sizes[0] > 2 * window, "only what is new is added", sizes)
        check(sizes[2] == sizes[1], "nothing is new the third time", sizes)
        for answer in answers[1:]:
            check({**answer, "seconds": 0} == {**plain, "seconds": 0}, answer, plain)
        check(answers[0]["reference_window_nll"] == plain["reference_window_nll"][:2], answers[0])
        with open(states, "rb") as file:
            kept = file.read()
        refuse(1, [states, "another reference"], "compare", TINY, "--reference", small, *SMALL,
               "--reference-states", states)
        refuse(1, [small, "no description"], "compare", small, "--reference", TINY, *SMALL, "--reference-states", small)
        nowhere = os.path.join(folder, "none", "states.safetensors")
        refuse(1, [nowhere], "compare", small, "--reference", TINY, *SMALL, "--reference-states", nowhere)
        with open(states, "rb") as file:
            check(file.read() == kept, "a refused file is left alone")


def test_cache():
    """What the cache's options say, and what they refuse."""
    ppl = lambda *options, model=TINY: ask("perplexity", model, *SMALL, *options)
    plain = ppl()
    check(plain["kv"] == "float" and plain["kv_sinks"] == plain["kv_recent"] == 0, plain)
    four = ppl("--kv", "4")
    check(four["kv"] == "KV4" and four["nll"] != plain["nll"], four)
    whole = ["--kv", "4", "--kv-recent", "64"]
    check(ppl(*whole, "--kv-exact", "f32")["nll"] == plain["nll"], "a window as long as the text")
    check(0 < abs(ppl(*whole)["nll"] - plain["nll"]) < 1e-3, "f16 is nearly that")
    check(ppl("--kv-keys", "8", "--kv-values", "2")["kv"] == "K8V2", "keys and values apart")
    fitted = ppl("--kv", "2", "--kv-rotate", "--kv-fit", "--kv-recent", "16")
    check(fitted["kv"] == "KV2 rotated fitted centered", fitted)
    check(abs(fitted["nll"] - plain["nll"]) < abs(ppl("--kv", "2")["nll"] - plain["nll"]), "it helps")
    with tempfile.TemporaryDirectory() as folder:
        small, _ = artefact(folder)
        stored = ppl(model=small)
        check(stored["kv"] == "KV4", "the artefact says it")
        check(ppl("--kv", "16", model=small)["kv"] == "float", "and is told otherwise")
        said = ask("generate", small, "--prompt", "Once", "-n", "4")
        check(said["kv_sinks"] == 4 and said["kv_recent"] == 64, said)
        check(ask("generate", small, "--prompt", "Once", "-n", "4", "--kv-recent", "0")["kv_recent"] == 0, "told")
        says = os.path.join(folder, "says.safetensors")
        made = ask("quantize", TINY, "--scheme", "W8A16KV4", "--kv-sinks", "3", "--kv-recent", "7", "-o", says)
        check((made["kv_sinks"], made["kv_recent"]) == (3, 7), made)
        for options, expected in (([], (3, 7)), (["--kv-recent", "9"], (3, 9)), (["--kv-sinks", "0"], (0, 7)),
                                  (["--kv", "8"], (3, 7))):
            for seen in (ppl(*options, model=says), ask("compare", says, "--reference", TINY, *SMALL, *options),
                         ask("generate", says, "--prompt", "Once", "-n", "1", *options)):
                check((seen["kv_sinks"], seen["kv_recent"]) == expected, options, seen)
        talks = ask("generate", small, "--prompt", "Once", "-n", "1", "--kv-sinks", "8")
        check((talks["kv_sinks"], talks["kv_recent"]) == (8, 64), talks)
        table = os.path.join(folder, "table.json")
        entries = ask("inspect", TINY)
        entries = entries["layers"] * entries["kv_heads"]
        with open(table, "w", encoding="utf-8") as file:
            json.dump({"recent": 3, "table": [{"keys": {"bits": 4}, "values": {"bits": 2}}] * entries}, file)
        with_table = ppl("--kv-table", table)
        check(with_table["kv"] == "K4V2" and with_table["kv_recent"] == 3, with_table)
        check(with_table["nll"] == ppl("--kv-keys", "4", "--kv-values", "2", "--kv-recent", "3")["nll"], "the same")
        with open(table, "w", encoding="utf-8") as file:
            json.dump({"table": [{"keys": {"bits": 8}}] + [{"keys": {"bits": 2}, "values": {"bits": 2}}] * (entries - 1)}, file)
        check(ppl("--kv-table", table)["kv"].startswith("table "), "layers that differ")
        with open(table, "w", encoding="utf-8") as file:
            json.dump({"table": [{"keys": {"bits": 4}}]}, file)
        refuse(2, ["table of 1 entries"], "perplexity", TINY, *SMALL, "--kv-table", table)
        with open(table, "w", encoding="utf-8") as file:
            file.write("{")
        refuse(1, [table], "perplexity", TINY, *SMALL, "--kv-table", table)
        seen = ask("inspect", small, "--memory", "0.001")
        check(0 < seen["kv_context_in_memory"] < 1024 * 1024, seen)
        check(ask("inspect", small, "--kv", "16")["kv_bytes_per_token"] > 6 * seen["kv_bytes_per_token"], seen)
        searched = os.path.join(folder, "searched.safetensors")
        found = ask("quantize", TINY, "--scheme", "W8A16KV3", "--kv-search", "3", "--kv-search-text", TEXT,
                    "--kv-search-context", "64", "--kv-search-windows", "1", "--kv-recent", "4", "-o", searched)
        check(found["kv"].startswith("table ") and found["kv_recent"] == 4, found)
        check(float(found["kv"].split()[1]) <= 3, found)
        check(ppl(model=searched)["kv"] == found["kv"], "the artefact carries the table")
        refuse(2, ["--kv-search-text"], "quantize", TINY, "--scheme", "W8A16KV3", "--kv-search", "3", "-o", searched)
    for wrong in (["--kv", "5"], ["--kv", "4", "--kv-keys", "4"], ["--kv-table", "x", "--kv", "4"], ["--kv-rotate"],
                  ["--kv-fit"], ["--kv", "4", "--kv-sinks", "-1"], ["--kv", "4", "--kv-group", "48"]):
        refuse(2, [], "perplexity", TINY, *SMALL, *wrong)
    rolled = ask("generate", TINY, "--prompt", "Once upon a time", "-n", "40", "--context", "16", "--roll")
    check(len(rolled["tokens"]) == 40 or rolled["finish"] == "eos", rolled)
    check(len(ask("generate", TINY, "--prompt", "Once upon a time", "-n", "40", "--context", "16")["tokens"]) < 16, "full")


def test_stored_prompt():
    """A prompt that was kept in a file is not read again, and is no other model's."""
    prompt, rest = "Once upon a time there was a small dog", " who liked to play."
    with tempfile.TemporaryDirectory() as folder:
        kept = os.path.join(folder, "prompt.safetensors")
        plain = ask("generate", TINY, "--prompt", prompt, "-n", "8")
        saved = ask("generate", TINY, "--prompt", prompt, "-n", "8", "--save-prompt", kept)
        check(saved["text"] == plain["text"] and saved["stored_prompt_tokens"] == 0, saved)
        whole = ask("generate", TINY, "--prompt", prompt + rest, "-n", "8", "--load-prompt", kept)
        behind = ask("generate", TINY, "--prompt", rest, "-n", "8", "--load-prompt", kept)
        check(whole["stored_prompt_tokens"] == plain["prompt_tokens"], whole)
        check(0 < whole["prompt_tokens"] < plain["prompt_tokens"], whole)
        check(whole["text"] == behind["text"], whole, behind)
        alone = ask("generate", TINY, "--prompt", prompt + rest, "-n", "8")
        check(whole["prompt_tokens"] + whole["stored_prompt_tokens"] == alone["prompt_tokens"], alone)
        other, _ = artefact(folder)
        refuse(1, [kept, "another scheme"], "generate", other, "--prompt", "Once", "--load-prompt", kept)
        refuse(1, ["nothing.safetensors"], "generate", TINY, "--prompt", "Once", "--load-prompt",
               os.path.join(folder, "nothing.safetensors"))
        refuse(1, [other, "no stored prompt"], "generate", TINY, "--prompt", "Once", "--load-prompt", other)
        with open(kept, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        refuse(1, [kept, "checksum"], "generate", TINY, "--prompt", "Once", "--load-prompt", kept)


class Served:
    """A server on a free port, for a with statement; say(body) asks it by HTTP."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __enter__(self):
        self.process = subprocess.Popen([BISUP, "serve", *self.arguments, "--port", "0", "--json"],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        lines = []
        while not lines or lines[-1] != b"}\n":  # it is one object, and stays
            lines.append(self.process.stdout.readline())
            if not lines[-1]:
                check(False, "it ended before it served:", self.process.communicate())
        self.said = json.loads(b"".join(lines))
        self.port = int(self.said["address"].rsplit(":", 1)[1])
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            said, complaint = self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        check(self.process.returncode == 0 and said == complaint == b"",
              "ended with", self.process.returncode, said, complaint)

    def open(self, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = json.dumps(body) if isinstance(body, dict) else body
        connection.request("GET" if body is None else "POST", path, text, headers or {})
        return connection, connection.getresponse()

    def say(self, path, body=None, status=200, headers=None):
        connection, response = self.open(path, body, headers)
        answer = json.loads(response.read())
        connection.close()
        check(response.status == status, path, body, "has the status", response.status, answer)
        return answer

    def chat(self, words, **more):
        return self.say("/v1/chat/completions", {"messages": [{"role": "user", "content": words}], "temperature": 0, **more})

    def refuse(self, status, words, path, body, headers=None):
        error = self.say(path, body, status, headers)["error"]
        check(set(error) == {"message", "type", "param", "code"}, error)
        for word in words:
            check(word in error["message"], body, "does not mention", word, "but says", error)
        return error


def events(response):
    """What a stream says: objects, and that it ends as it should."""
    blocks = response.read().decode().split("\n\n")
    check(all(block.startswith("data: ") for block in blocks[:-1]) and blocks[-2:] == ["data: [DONE]", ""], blocks)
    return [json.loads(block[6:]) for block in blocks[:-2]]


def test_serve():
    chat, completion = "/v1/chat/completions", "/v1/completions"
    questions = ["Hello there", "What is the opposite of hot?", "Tell me a story", "One", "Who is Clara, and why?"]
    alone = {question: ask("chat", TINY, "--temperature", "0", "-n", "24", stdin=question + "\n")["turns"][0]
             for question in questions}
    with Served(TINY, "--parallel", "3", "-n", "24") as server:
        check(set(server.said) == documented("serve"), set(server.said) ^ documented("serve"))
        check(server.said["chat"] is True and server.said["context"] == 512, server.said)
        check(server.say("/health") == {"status": "ok"}, "health")
        models = server.say("/v1/models")
        check(models["object"] == "list" and [m["id"] for m in models["data"]] == ["tiny_llama"], models)

        # More clients than are answered at once hear what each would hear alone.
        with concurrent.futures.ThreadPoolExecutor(len(questions)) as clients:
            heard = list(clients.map(server.chat, questions))
        for question, answer in zip(questions, heard):
            choice, = answer["choices"]
            check(answer["object"] == "chat.completion" and answer["model"] == "tiny_llama", answer)
            check(choice["message"] == {"role": "assistant", "content": alone[question]["assistant"]}, choice, alone[question])
            check(choice["finish_reason"] == ("length" if alone[question]["finish"] == "length" else "stop"), choice)
            used = answer["usage"]
            check(used["prompt_tokens"] == alone[question]["prompt_tokens"] and 0 < used["completion_tokens"] <= 24, used)
            check(used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"], used)
        check(len({answer["id"] for answer in heard}) == len(heard), "ids differ")

        # A stream says the same in pieces; a question that was asked before is in the cache.
        stream = {"messages": [{"role": "user", "content": questions[2]}], "temperature": 0, "stream": True}
        connection, response = server.open(chat, {**stream, "stream_options": {"include_usage": True}})
        check(response.status == 200 and response.getheader("Content-Type") == "text/event-stream", response.headers)
        first, *pieces, last, usage = events(response)
        connection.close()
        check(first["choices"][0]["delta"] == {"role": "assistant", "content": ""}, first)
        check({e["object"] for e in (first, *pieces, last, usage)} == {"chat.completion.chunk"}, pieces)
        said = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
        check(said == alone[questions[2]]["assistant"], said)
        check(last["choices"][0]["delta"] == {} and last["choices"][0]["finish_reason"] in ("stop", "length"), last)
        check(usage["choices"] == [], usage)
        cached = usage["usage"]["prompt_tokens_details"]["cached_tokens"]
        check(0 < cached < usage["usage"]["prompt_tokens"], usage)

        # Completions; stops; parts of text; a system message by its newer name.
        text = ask("generate", TINY, "--prompt", "Once upon", "-n", "12")["text"]
        ask_for = {"prompt": "Once upon", "max_tokens": 12, "temperature": 0}
        answer = server.say(completion, ask_for)
        check(answer["object"] == "text_completion" and answer["choices"][0]["text"] == text, answer, text)
        connection, response = server.open(completion, {**ask_for, "stream": True, "stop": [text[5:8]]})
        *pieces, last = events(response)
        connection.close()
        check("".join(piece["choices"][0]["text"] for piece in pieces) == text[:5], pieces)
        check(last["choices"][0]["finish_reason"] == "stop", last)
        parts = {"messages": [{"role": "developer", "content": "Be brief."},
                              {"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]}],
                 "max_completion_tokens": 4, "temperature": 0, "n": 1, "tools": [], "logprobs": False, "seed": None}
        plain = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}],
                 "max_tokens": 4, "temperature": 0}
        check(server.say(chat, parts)["choices"] == server.say(chat, plain)["choices"], "the same question")
        # Drawn: by the request's seed, or by one of its own.
        drawn = {**ask_for, "temperature": 5, "max_tokens": 24}
        same = {server.say(completion, {**drawn, "seed": 7})["choices"][0]["text"] for _ in range(3)}
        own = {server.say(completion, drawn)["choices"][0]["text"] for _ in range(3)}
        check(len(same) == 1 and len(own) > 1, same, own)

        one = {"messages": [{"role": "user", "content": "x"}]}
        for words, path, body in (
                (["not JSON"], chat, "{"), (["not an object"], chat, "[1]"), (["'messages'"], chat, {}),
                (["'messages'"], chat, {"messages": []}), (["role", "'robot'"], chat, {"messages": [{"role": "robot", "content": "x"}]}),
                (["'content'"], chat, {"messages": [{"role": "user"}]}),
                (["not text"], chat, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                (["'prompt'"], completion, {}), (["'prompt'"], completion, {"prompt": ["a", "b"]}),
                (["'n'"], chat, {**one, "n": 2}), (["'tools'"], chat, {**one, "tools": [{}]}),
                (["'response_format'"], chat, {**one, "response_format": {"type": "json_object"}}),
                (["'temperature'"], chat, {**one, "temperature": -1}), (["'temperature'"], chat, {**one, "temperature": "hot"}),
                (["'top_p'"], chat, {**one, "top_p": 0}), (["'max_tokens'"], chat, {**one, "max_tokens": 0}),
                (["'max_tokens'"], chat, {**one, "max_tokens": 1e99}), (["'top_k'"], chat, {**one, "top_k": -1}),
                (["'seed'"], chat, {**one, "seed": "x"}), (["'stop'"], chat, {**one, "stop": {"a": 1}}),
                (["'stream'"], chat, {**one, "stream": "yes"}), (["'stream_options'"], chat, {**one, "stream_options": 1}),
                (["no tokens"], completion, {"prompt": ""})):
            error = server.refuse(400, words, path, body)
            check(error["type"] == "invalid_request_error" and error["code"] is None, error)
        too_long = {"prompt": "word " * 600}
        check(server.refuse(400, ["room for 512"], completion, too_long)["code"] == "context_length_exceeded", "its code")
        server.refuse(404, ["/v1/embeddings"], "/v1/embeddings", {})
        server.refuse(413, ["too long"], completion, " " * (17 << 20))

        # Clients that leave in mid-answer do no harm (that they are not answered to the end: text/continuous_batch).
        for _ in range(3):
            connection, response = server.open(completion, {"prompt": "Once", "max_tokens": 400, "stream": True})
            response.read(10)
            connection.close()
        check(server.chat(questions[0])["choices"] == heard[0]["choices"], "after others have left")

    # A key; and whoever cannot wait is told so.
    with Served(TINY, "--parallel", "1", "--queue", "0", "--api-key", "secret") as server:
        check(server.say("/health") == {"status": "ok"}, "health needs no key")
        for headers in ({}, {"Authorization": "Bearer wrong!"}, {"Authorization": "secret"}):
            server.refuse(401, ["key"], completion, ask_for, headers)
        key = {"Authorization": "Bearer secret"}
        check(server.say(completion, ask_for, headers=key)["choices"][0]["text"] == text, "with the key")
        endless = {"prompt": "Once", "max_tokens": 400, "temperature": 9, "stream": True}
        streams = [server.open(completion, endless, key) for _ in range(8)]
        statuses = sorted(response.status for _, response in streams)
        check(set(statuses) == {200, 503}, statuses)
        # It is asked to end while one is being answered.
    for connection, _ in streams:
        connection.close()

    with tempfile.TemporaryDirectory() as folder:
        mute = os.path.join(folder, "mute")
        shutil.copytree(TINY, mute)
        path = os.path.join(mute, "tokenizer_config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["chat_template"] = "{{ messages }}"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        with Served(mute) as server:
            check(server.said["chat"] is False, server.said)
            server.refuse(400, ["template"], chat, one)
            check(server.say(completion, ask_for)["choices"][0]["text"] == text, "completions need no template")
        prompted = os.path.join(folder, "prompted.safetensors")
        ask("quantize", TINY, "--scheme", "W8A8", "--cache-prompt", "text:Once upon a time", "-o", prompted)
        expected = ask("generate", prompted, "--prompt", "Once upon a time there", "-n", "8")
        with Served(prompted) as server:
            answer = server.say(completion, {**ask_for, "prompt": "Once upon a time there", "max_tokens": 8})
            check(answer["choices"][0]["text"] == expected["text"], answer, expected)
            stored = expected["stored_prompt_tokens"]
            check(answer["usage"]["prompt_tokens_details"]["cached_tokens"] == stored > 0, answer, stored)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refuse(1, ["cannot listen", str(taken.getsockname()[1])], "serve", TINY, "--port", str(taken.getsockname()[1]))
    refuse(2, ["--port"], "serve", TINY, "--port", "99999")


def test_roll():
    """A conversation that is longer than the context goes on."""
    lines = "".join(f"Tell me about the number {i}.\n" for i in range(6))
    talk = ["chat", TINY, "--template", "chatml", "-n", "6", "--temperature", "0", "--context", "64"]
    refuse(1, ["there is room for"], *talk, "--json", stdin=lines)
    rolled = ask(*talk, "--roll", stdin=lines)
    check(len(rolled["turns"]) == 6, rolled)


def test_usage():
    for arguments in (["frobnicate"], [], ["perplexity"], ["quantize", TINY, "-o", "x"],
                      ["perplexity", TINY, "--windows", "-1"], ["perplexity", TINY, "--frob"],
                      ["quantize", TINY, "--scheme", "W4A4", "--method", "magic", "-o", "x"],
                      ["bench"], ["bench", "--shape", "llama-2-7b"], ["bench", TINY, "-p", "x"],
                      ["generate", TINY, "--prompt", "x", "--system", "y"],
                      ["generate", TINY, "--prompt", "x", "--temperature", "-1"]):
        refuse(2, [], *arguments)
    for option in ("--temperature", "--top-p", "--min-p", "--repetition-penalty"):
        for value in ("nan", "-0.5", "1e9", "x", ""):
            refuse(2, [option], "generate", TINY, "--prompt", "x", f"{option}={value}")
    for seed in ("-1", "1.5", "99999999999999999999"):
        refuse(2, ["--seed"], "generate", TINY, "--prompt", "x", f"--seed={seed}")
    for threads in ("0", "-1", "1025", "99999999999999999999", "two"):
        refuse(2, ["--threads"], "inspect", TINY, f"--threads={threads}")
    refuse(2, ["-t"], "bench", TINY, "-t", "200000")
    refuse(2, ["nothing to measure"], "bench", TINY, "-p", "0", "-n", "0")
    for option, value in (("--learn", "frob"), ("--rate", "scales"), ("--rate", "frob=1"), ("--rate", "scales=-1"),
                          ("--rate", "scales=nan"), ("--branch-energy", "nan"), ("--branch-energy", "2"),
                          ("--preset", "frob")):
        refuse(2, [option], "quantize", TINY, "--scheme", "W4A4", "--method", "bisup_atom", "-o", "x", option, value)
    for scheme in ("W9A8", "W4", "W4A4-g65", "W4A4KV5", "W4A4-g64-g32", "nonsense", ""):
        refuse(2, [scheme], "quantize", TINY, "--scheme", scheme, "-o", "x")
    refuse(2, ["BISUP_TARGET", "quantum"], "inspect", TINY, environment={"BISUP_TARGET": "quantum"})
    check(run("inspect", TINY, environment={"BISUP_TARGET": "scalar"}).returncode == 0, "a known target")
    check(re.fullmatch(rb"bisup \d+\.\d+\.\d+\n", run("--version").stdout), "--version")
    for subcommand in ("quantize", "perplexity", "compare", "generate", "chat", "tokenize", "inspect", "bench"):
        done = run(subcommand, "--help")
        check(done.returncode == 0 and b"Example: bisup " + subcommand.encode() in done.stdout, subcommand)
        check(b"--json" in done.stdout and b"--threads" in done.stdout, subcommand)


def test_failures():
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model")
        shutil.copytree(TINY, model)
        weights = os.path.join(model, "model.safetensors")
        before = os.path.getsize(weights)
        for source in (model, weights):
            refuse(1, [weights, "model itself"], "quantize", source, "--scheme", "W4A8", "-o", weights)
        check(os.path.getsize(weights) == before, "the model is still there")
    refuse(1, ["nowhere", "cannot open"], "inspect", "nowhere")
    refuse(1, ["nowhere"], "perplexity", TINY, "--text", "nowhere")
    refuse(1, ["too short", "standard input"], "perplexity", TINY, "--context", "64", stdin="few words")
    refuse(1, ["too short"], "perplexity", TINY, "--context", "64", stdin="")
    refuse(1, ["positions"], "perplexity", TINY, "--context", "4096", stdin="few words")
    refuse(1, [TINY, "scored from position 63"], "perplexity", TINY, *SMALL, "--score-from", "63")
    refuse(1, ["checksums"], "inspect", TINY, "--verify")
    refuse(1, [TINY, "positions"], "perplexity", TINY, "--context", "4096", "--text", TEXT)
    refuse(1, ["room"], "generate", TINY, "--context", "4", "--prompt", "one two three four five six")
    with tempfile.TemporaryDirectory() as folder:
        small, _ = artefact(folder)
        refuse(1, [small, "already"], "quantize", small, "--scheme", "W3A3", "-o", os.path.join(folder, "x"))
        refuse(2, [small, "already"], "perplexity", small, "--scheme", "W3A3", *SMALL)
        with open(small, "rb") as file:
            content = bytearray(file.read())
        broken = os.path.join(folder, "broken.safetensors")
        for length in (0, 7, 100, len(content) // 2, len(content) - 1):
            with open(broken, "wb") as file:
                file.write(content[:length])
            refuse(1, [broken], "inspect", broken)
        content[-1000] ^= 1
        with open(broken, "wb") as file:
            file.write(content)
        check(run("inspect", broken).returncode == 0, "only --verify reads the payload")
        refuse(1, [broken, "wrong checksum"], "inspect", broken, "--verify")
        foreign = os.path.join(folder, "foreign")
        shutil.copytree(TINY, foreign)
        with open(os.path.join(foreign, "tokenizer.json"), encoding="utf-8") as file:
            tokenizer = json.load(file)
        tokenizer["model"]["vocab"] = {t: i + (2000 if len(t) == 1 else 0)
                                       for t, i in tokenizer["model"]["vocab"].items()}
        with open(os.path.join(foreign, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump(tokenizer, file)
        refuse(1, [foreign, "belongs to other weights"], "perplexity", foreign, "--text", TEXT, "--context", "64")
        refuse(1, [foreign, "belongs to other weights"], "generate", foreign, "--prompt", "q")
        no_folder = os.path.join(folder, "absent", "x.safetensors")
        refuse(1, [no_folder, "cannot write"], "quantize", TINY, "--scheme", "W4A4", "-o", no_folder)
        for target in (folder, folder + "/"):
            refuse(1, ["cannot write"], "quantize", TINY, "--scheme", "W4A4", "-o", target)
        refuse(2, ["--output"], "quantize", TINY, "--scheme", "W4A4", "-o", "")
        limited = os.path.join(folder, "limited")
        os.mkdir(limited)
        refuse(1, ["cannot write"], "quantize", TINY, "--scheme", "W4A4", "-o", os.path.join(limited, "x.safetensors"),
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
        check(os.listdir(limited) == [], "left behind at the limit of file sizes", os.listdir(limited))
        if os.getuid() != 0:  # root may write anywhere
            os.chmod(limited, 0o555)
            refuse(1, ["cannot write"], "quantize", TINY, "--scheme", "W4A4", "-o", os.path.join(limited, "x"))
            os.chmod(limited, 0o755)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w", encoding="utf-8") as full:
            refuse(1, ["standard output"], "tokenize", TINY, "--text", "x", "--json", stdout=full)
        refuse(1, ["cannot write"], "quantize", TINY, "--scheme", "W4A4", "-o", "/dev/full")


def test_streams():
    """A text from a pipe; standard streams that are closed, or whose reader has gone."""
    one = ["tokenize", TINY, "--text", "one"]

    def closed(numbers, *arguments):
        return run(*arguments, preexec_fn=lambda: [os.close(n) for n in numbers])

    done = closed([1], *one)
    check((done.returncode, done.stderr) == (1, b"bisup: standard output: cannot write\n"), done)
    check(closed([1, 2], *one).returncode == 1, "nobody listens")
    check(closed([2], *one).returncode == 0, "only errors have no place")
    check(closed([2], "inspect", "nowhere").returncode == 1, "an error without a place")
    check(closed([2], "generate", TINY, "--prompt", "x", "-n", "3").returncode == 0, "nor has the speed")
    done = closed([0], "tokenize", TINY)
    check(done.returncode == 1 and b"standard input" in done.stderr, done)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "small.safetensors")
        closed([0, 1, 2], "quantize", TINY, "--scheme", "W4A8-g64", "-o", path)
        check(run("inspect", path, "--verify").returncode == 0, "what was printed went into the file")
        pipe = os.path.join(folder, "pipe")
        os.mkfifo(pipe)
        with open(TEXT, "rb") as file:
            text = file.read(20_000)
        writer = threading.Thread(target=lambda: open(pipe, "wb").write(text))
        writer.start()
        piped = ask("perplexity", TINY, "--text", pipe, "--context", "64", "--windows", "3")
        writer.join()
        check(piped["nll"] == ask("perplexity", TINY, *SMALL)["nll"], "a pipe is a text")
    for handler in (signal.SIG_DFL, signal.SIG_IGN):
        process = subprocess.Popen([BISUP, "generate", TINY, "--prompt", "Once", "-n", "400",
                                    "--repetition-penalty", "1.3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   preexec_fn=lambda: signal.signal(signal.SIGPIPE, handler))
        process.stdout.close()
        message = process.stderr.read()
        status = process.wait(timeout=60)
        check(status == -signal.SIGPIPE if handler == signal.SIG_DFL else
              status == 1 and message.startswith(b"bisup: ") and message.count(b"\n") == 1, status, message)


def test_interrupts():
    """Killed at any moment, the old file is whole; stopped by Ctrl-C, nothing else is left either."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        check(run("quantize", TINY, "--scheme", "W8A8", "-o", path).returncode == 0, "quantize")
        with open(path, "rb") as file:
            old = file.read()
        start = time.monotonic()
        check(run("quantize", TINY, "--scheme", "W4A4", "-o", path + "2").returncode == 0, "quantize")
        whole = time.monotonic() - start
        with open(path + "2", "rb") as file:
            new = file.read()
        os.remove(path + "2")
        stopped = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for step in range(12):
                with open(path, "wb") as file:
                    file.write(old)
                process = subprocess.Popen([BISUP, "quantize", TINY, "--scheme", "W4A4", "-o", path],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                time.sleep(whole * step / 10)
                process.send_signal(number)
                _, message = process.communicate(timeout=60)
                with open(path, "rb") as file:
                    content = file.read()
                check(content in (old, new), "neither the old file nor the new one")
                check(content == new or process.returncode != 0, "success without a file")
                if process.returncode == 1:
                    stopped += 1
                    check(message == b"bisup: stopped\n" and content == old, message)
                if number == signal.SIGINT and process.returncode >= 0:  # else before it could listen
                    left = [name for name in os.listdir(folder) if name != "model.safetensors"]
                    check(not left, "left behind", left)
        process = subprocess.Popen([BISUP, "generate", TINY, "--prompt", "Once", "-n", "400", "--threads", "1",
                                    "--repetition-penalty", "1.3"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        check(process.returncode in (0, 1), "generate after Ctrl-C", process.returncode)


def wait_for(path, process):
    """Whether the file appears before the process ends."""
    while process.poll() is None and not os.path.exists(path):
        time.sleep(0.001)
    return os.path.exists(path)


def test_resume():
    """Killed at random moments, a calibration goes on and ends with the same bytes."""
    def content(path):
        with open(path, "rb") as file:
            return file.read()

    with tempfile.TemporaryDirectory() as folder:
        path, work = os.path.join(folder, "x.safetensors"), os.path.join(folder, "work")
        check(run(*CALIBRATE, "-o", path).returncode == 0, "quantize")
        whole = content(path)
        start = time.monotonic()
        check(run(*CALIBRATE, "-o", path, "--work", work, "--spill").returncode == 0, "quantize --work")
        took = time.monotonic() - start
        check(content(path) == whole, "a working folder changes nothing")
        refuse(1, [work, "--resume"], *CALIBRATE, "-o", path, "--work", work)
        refuse(1, ["seed is 0 there and 1 here"], *CALIBRATE, "-o", path, "--work", work, "--resume", "--seed", "1")
        again = ask(*CALIBRATE, "-o", path, "--work", work, "--resume")
        check(len(again["layers"]) == 4 and content(path) == whole, "finished")
        chance = random.Random(7)
        for kill in range(20):
            shutil.rmtree(work, ignore_errors=True)
            for attempt in range(1 + kill % 2):  # every other run is killed twice
                process = subprocess.Popen([BISUP, *CALIBRATE, "-o", path, "--work", work, "--resume"],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                if attempt == 0 and kill < 4:
                    check(wait_for(os.path.join(work, f"block-000{kill}.safetensors"), process), "no block", kill)
                time.sleep(chance.random() * took * (0.1 if kill < 4 else 1))
                process.kill()
                process.wait(timeout=60)
            left = os.listdir(work) if os.path.isdir(work) else []
            os.path.exists(path) and os.remove(path)
            done = run(*CALIBRATE, "-o", path, "--work", work, "--resume")
            check(done.returncode == 0, "after a kill with", left, done.stderr.decode())
            check(content(path) == whole, "another artefact after a kill with", left)
            left = sorted(os.listdir(work))
            check(left == [f"block-000{i}.safetensors" for i in range(4)] + ["log.jsonl", "plan.json",
                                                                            "streams-0003.safetensors"], left)
            with open(os.path.join(work, "log.jsonl"), encoding="utf-8") as file:
                check([json.loads(line)["layer"] for line in file] == [0, 1, 2, 3], "the log")
        # In the end-to-end stage, which is most of this run.
        tuned = [word if word != "quarot" else "bisup_quarot" for word in CALIBRATE]
        tuned += ["--rank", "2", "--block-steps", "1", "--end-to-end", "80", "--end-to-end-tokens", "1500", "-o", path]
        start = time.monotonic()
        told = ask(*tuned)
        check(0 < told["end_to_end_best"] <= told["end_to_end_before"] and 0 <= told["end_to_end_step"] <= 80, told)
        check(told["end_to_end_best"] == min(told["end_to_end_held_out"]), told)
        check(0 < told["end_to_end_rates"] <= 1, told)
        check(len(told["end_to_end_training"]) == len(told["end_to_end_held_out"]) - 1, told)
        tuned_took, tuned_whole, kept = time.monotonic() - start, content(path), 0
        state = os.path.join(work, "tuning-0004.safetensors")
        for kill in range(4):
            shutil.rmtree(work, ignore_errors=True)
            process = subprocess.Popen([BISUP, *tuned, "--work", work, "--resume"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            check(wait_for(state, process), "no state of the end-to-end stage")
            time.sleep(chance.random() * kill * 0.1 * tuned_took)
            process.kill()
            process.wait(timeout=60)
            kept += process.returncode == -signal.SIGKILL and os.path.exists(state)
            os.remove(path)
            check(run(*tuned, "--work", work, "--resume").returncode == 0, "after a kill end to end")
            check(content(path) == tuned_whole, "another artefact after a kill end to end")
        check(kept > 0, "no kill found a state of the end-to-end stage")
        # A full disk, met in a block, in the streams and in the artefact.
        shutil.rmtree(work)
        for name in os.listdir(folder):  # a kill while the artefact was written leaves its beginning
            name.endswith(".partial") and os.remove(os.path.join(folder, name))
        for limit, part in ((100_000, "block-0000"), (300_000, "streams-0000"), (600_000, path)):
            refuse(1, ["cannot write", part], *CALIBRATE, "-o", path, "--work", work, "--resume",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            check(not [name for name in os.listdir(work) + os.listdir(folder) if name.endswith(".partial")],
                  "left behind on a full disk")
        check(run(*CALIBRATE, "-o", path, "--work", work, "--resume").returncode == 0, "the disk has room again")
        check(content(path) == whole, "another artefact after a full disk")
        with open(os.path.join(work, "block-0002.safetensors"), "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"?")
        refuse(1, ["block-0002", "wrong checksum", "layer 2"], *CALIBRATE, "-o", path, "--work", work, "--resume")


def provenance(artefact):
    """What an artefact remembers of its calibration data."""
    with open(artefact, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["bisup"])["details"]["calibration"]


def test_calibration():
    """Data and models that cannot be calibrated on, options that need each other, and --dry-run."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.safetensors")
        options = [*CALIBRATE[:CALIBRATE.index("--calib")], "-o", path]
        few = [*options, "--calib-samples", "2", "--calib-length", "64"]

        def data(name, content):
            place = os.path.join(folder, name)
            with open(place, "wb") as file:
                file.write(content)
            return [*few, "--calib", place]

        good = b'{"text": "' + b"Once upon a time there was a little dog. " * 20 + b'"}\n'
        refuse(1, ["empty.txt", "too short"], *data("empty.txt", b""))
        refuse(1, ["empty.jsonl", "too short"], *data("empty.jsonl", b"\n"))
        refuse(1, ["short.txt", "too short", "64"], *data("short.txt", b"Once upon a time."))
        refuse(1, ["latin1.txt", "line 2", "UTF-8"], *data("latin1.txt", b"one\ncaf\xe9\n"))
        refuse(1, ["broken.jsonl", "line 2"], *data("broken.jsonl", good + b'{"text": "no end\n'))
        refuse(1, ["no.jsonl", "line 2", "text"], *data("no.jsonl", good + b'{"words": 1}\n'))
        refuse(1, ["nowhere"], *few, "--calib", "nowhere")
        check(run(*data("good.jsonl", good)).returncode == 0, "JSON lines")
        chat = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "Yes."}]}\n' % (
            b"Tell me about the little dog. " * 20)
        check(run(*data("chat.jsonl", chat)).returncode == 0, "the template of tokenizer_config.json")
        check(run(*few, "--self-generate", "3").returncode == 0, "its own text")

        # Beside a text so many of the samples; the rest are cut from it.
        both = [*options, "--calib", data("good.jsonl", good)[-1], "--calib-length", "64", "--calib-samples", "3",
                "--self-generate", "2"]
        check(run(*both).returncode == 0, "a text and its own")
        told = provenance(path)
        check(told["kind"] == "jsonl" and told["samples"] == 3 and told["self_generated"] == 2, told)
        check(run(*both, "--seed", "1").returncode == 0, "another seed")
        other = provenance(path)
        check(told["self_generated_crc32c"] != other["self_generated_crc32c"], other)
        check(told["text_crc32c"] == other["text_crc32c"], other)
        refuse(2, ["--self-generate", "no sample"], *data("good.jsonl", good), "--self-generate", "2")

        # More for the end, what the text has between its three samples and the crop that is held out.
        last = ["quantize", TINY, "--scheme", "W4A4-g32", "--method", "bisup_gptq", "-o", path, "--calib", TEXT,
                "--calib-length", "64", "--calib-samples", "3", "--block-steps", "1", "--end-to-end", "2",
                "--end-to-end-tokens"]
        check(run(*last, "256", "--end-to-end-length", "64").returncode == 0, "more for the end")
        told = provenance(path)
        check([told["end_to_end_" + what] for what in ("samples", "tokens", "length")] == [4, 256, 64], told)
        check(run(*last, "1000000").returncode == 0, "all for the end")
        told = provenance(path)
        free = told["text_tokens"] - 4 * 64 - told["end_to_end_tokens"]
        check(0 <= free < 6 * 64 and told["end_to_end_tokens"] > 64 * told["end_to_end_samples"], told)

        # Fewer tokens than features: damping makes up for what was not seen, and is told.
        done = run(*options, "--calib", TEXT, "--calib-samples", "1", "--calib-length", "32", "--json")
        check(done.returncode == 0 and b"32 calibration tokens for inputs of 384 features" in done.stderr, done)
        for layer in json.loads(done.stdout)["layers"]:
            check(all(0 < damping <= 1 for damping in layer["damping"].values()), layer)
            check(layer["held_out_loss"] is not None and 0 < layer["held_out_loss"] < 10, layer)

        broken = os.path.join(folder, "broken")
        shutil.copytree(TINY, broken)
        weights = os.path.join(broken, "model.safetensors")
        with open(weights, "rb") as file:
            content = bytearray(file.read())
        size = int.from_bytes(content[:8], "little")
        place = json.loads(content[8:8 + size])["model.layers.2.mlp.up_proj.weight"]
        check(place["dtype"] == "F16", place)
        first = 8 + size + place["data_offsets"][0]
        content[first:first + 2] = b"\x00\x7e"  # NaN
        with open(weights, "wb") as file:
            file.write(content)
        refuse(1, [broken, "layer 2", "not finite"], "quantize", broken, *CALIBRATE[2:], "-o", path)
        refuse(1, [broken, "layers.2", "not finite"], "quantize", broken, *CALIBRATE[2:], "--self-generate", "2", "-o", path)

        dry = [*CALIBRATE, "--dry-run"]
        work = os.path.join(folder, "work")
        answer = ask(*dry, "--work", work)
        check(answer["output"] is None and answer["tokens"] == 6 * 64 and answer["work_bytes"] > 0, answer)
        check(answer["estimated_seconds"] > 0 and answer["operations_per_second"] > 0, answer)
        check(not os.path.exists(work), "a dry run leaves nothing")
        made = ask(*CALIBRATE, "-o", path)
        check(abs(answer["bytes"] / made["bytes"] - 1) < 0.03, "the artefact's size", answer["bytes"], made["bytes"])
        said = run(*dry).stdout
        check(b"estimate" in said and b"memory" in said, said)
        rounding = ask("quantize", TINY, "--scheme", "W4A8", "--dry-run")
        check(rounding["tokens"] == 0 and rounding["memory"]["streams"] == 0, rounding)
        for extra, words in ((["--keepers", "128"], ["keepers", "attention"]),
                             (["--calib-length", "1024"], ["positions"]),
                             (["-o", os.path.join(folder, "absent", "x")], ["cannot write", "absent"]),
                             (["--calib", "nowhere"], ["nowhere"])):
            arguments = [*dry, *extra]
            for name in ("--calib", "--calib-length"):  # CLI11 takes no option twice
                while arguments.count(name) > 1:
                    at = arguments.index(name)
                    del arguments[at:at + 2]
            refuse(1, words, *arguments)
        if os.path.isdir("/proc/self"):
            refuse(1, ["cannot write", "/proc", "needed"], *dry, "--work", "/proc/x")
        check(run("quantize", "--explain", "--method", "atom").stdout.startswith(b"atom\n"), "--explain needs no model")
        for missing in (["quantize", TINY, "--scheme", "W4A4"], ["quantize", TINY, "-o", path],
                        ["quantize", "--scheme", "W4A4", "-o", path], [*CALIBRATE, "-o", path, "--resume"],
                        [*CALIBRATE, "-o", path, "--spill"],
                        ["quantize", TINY, "--scheme", "W4A4", "-o", path, "--work", work]):
            refuse(2, [], *missing)


BISUP = os.path.abspath(sys.argv[1])
globals()["test_" + sys.argv[2]]()
