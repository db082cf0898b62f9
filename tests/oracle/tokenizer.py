# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Are our token ids those of the tokenizers library?

python3 tests/oracle/tokenizer.py --out FOLDER [--bisup PROGRAM] [--bytes N] [--seeds N] MODEL...

MODEL is a .gguf file, a folder with a tokenizer.json, or that file. For each one, N bytes of mixed
text (tokenizer_text.py) are tokenized by both; any difference fails. Without --bisup only the
golden ids are derived. A MODEL that is not there is skipped by name. For a GGUF (SmolLM2), the ids
of short awkward texts are written to FOLDER/tokenizer_smollm2.json, the committed golden file.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer  # noqa: E402: the variable must be set first

from tokenizer_text import mixed_text  # noqa: E402

GOLDEN_TEXTS = (
    "", " ", "Hello world!", "Hello world! Caf\u00e9 d\u00e9j\u00e0 vu \u2014 12345\n\n  x=3; \u4f60\u597d don\u2019t",
    "I'll DON'T they've it's '\u017f 'RE", "1234567890 3.14e-5 \u0663\u00b2\u2167", "\t\tif (a<b) {\r\n\t}\r\n\r\n",
    "e\u0301 \u1e9b\u0323 \u1100\u1161\u11a8 \uac01", "\U0001F468\u200D\U0001F469\u200D\U0001F467 \U0001F1E9\U0001F1EA 1\uFE0F\u20E3",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "a\u0085b\u00a0c\u2028d\u3000e  f   ",
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|", " " * 40 + "x", "\n" * 7, "\x00\x01\x7f", "\ufffd\ufffd",
)


def both_know(character):
    # Letters that one side's version of Unicode has and the other's has not are cut differently by
    # right; Python's own tables are older than both.
    return unicodedata.category(character) != "Cn"


def reference(path):
    if path.suffix == ".gguf":
        from gguf_model import load_tokenizer
        return load_tokenizer(str(path))
    return Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))


def first_difference(tokenizer, expected, found):
    at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b),
              min(len(expected), len(found)))
    around = slice(max(0, at - 3), at + 6)
    return (f"token {at}: expected {[tokenizer.id_to_token(i) for i in expected[around]]}, "
            f"found {[tokenizer.id_to_token(i) for i in found[around]]}")


def ids_of(program, model, data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        answer = subprocess.run([program, "tokenize", str(model), "--file", file.name, "--json"],
                                check=True, capture_output=True)
    return json.loads(answer.stdout)["ids"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bisup")
    parser.add_argument("--bytes", type=int, default=1_500_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("models", nargs="*", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for model in options.models:
        if not model.exists():
            print(f"skipped {model.name}: it is not here")
            continue
        tokenizer = reference(model)
        if model.suffix == ".gguf":
            golden = [{"text": t, "ids": tokenizer.encode(t).ids} for t in GOLDEN_TEXTS]
            lines = ",\n".join(json.dumps(one) for one in golden)
            (options.out / "tokenizer_smollm2.json").write_text(f"[\n{lines}\n]\n")
        if not options.bisup:
            continue
        texts = [t.encode("utf-8") for t in GOLDEN_TEXTS if t]
        texts += [mixed_text(options.bytes, seed, both_know) for seed in range(1, options.seeds + 1)]
        for data in texts:
            expected = tokenizer.encode(data.decode("utf-8", "replace")).ids
            found = ids_of(options.bisup, model, data)
            if found != expected:
                wrong += 1
                print(f"{model.name}: {first_difference(tokenizer, expected, found)}")
        print(f"{model.name}: {sum(map(len, texts))} bytes compared")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
