# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""What perplexity, logits and greedy tokens do transformers give two real models?

    python perplexity.py --out FOLDER [--gguf SmolLM2-135M-Instruct.Q4_1.gguf] [--text FILE]

writes FOLDER/perplexity.json (the tiny Llama of examples/, on its eval.txt) or, with --gguf, only
FOLDER/smollm2.json (on the same text unless --text names another). The protocol: the text is
tokenized once, BOS once in front only if the tokenizer adds one (neither does), windows do not
overlap and the tail is dropped, every position but a window's first is scored, and the standard
error is the deviation of the windows' means (divided by windows - 1) over sqrt(windows).
"""

import argparse
import hashlib
import json
import math
import os

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.utils import logging

import gguf_model

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = os.path.join(HERE, "..", "..", "examples", "tiny_llama")
TINY_PROMPT = "Once upon a time, there was a little fox named Ben. He lived in a small house near"
PROMPT = ("The quick brown fox jumps over the lazy dog, and 42 other animals watch it from the"
          " hill. In 1969, people walked on the Moon for the first time; nobody")


@torch.inference_mode()
def perplexity(model, ids, context, limit=None):
    windows = len(ids) // context
    windows = windows if limit is None else min(windows, limit)
    if windows == 0:
        raise ValueError("the text is shorter than one window")
    means = []
    for w in range(windows):
        window = torch.tensor(ids[w * context:(w + 1) * context])
        log_probabilities = torch.log_softmax(model(input_ids=window[None]).logits[0, :-1], dim=-1)
        scores = log_probabilities.gather(1, window[1:, None]).double()
        means.append(-scores.mean().item())
    means = torch.tensor(means, dtype=torch.float64)
    nll = means.mean().item()
    return dict(context=context, windows=windows, tokens=windows * (context - 1), nll=nll,
                nll_stderr=means.std().item() / math.sqrt(windows), perplexity=math.exp(nll),
                window_nll=means.tolist())


def rounded(values):
    return [float(f"{v:.8g}") for v in values]


@torch.inference_mode()
def logits(model, ids, positions, sampled):
    """Of each position: the largest magnitude, the five likeliest ids and the sampled logits."""
    output = model(input_ids=torch.tensor([ids])).logits[0]
    rows = [dict(position=p, magnitude=rounded([output[p].abs().max().item()])[0],
                 likeliest=output[p].topk(5).indices.tolist(),
                 logits=rounded(output[p][sampled].tolist())) for p in positions]
    return dict(ids=ids, sampled=sampled, rows=rows)


@torch.inference_mode()
def greedy(model, ids, count):
    """At most count greedy tokens: up to the first near tie, so a test may compare them exactly."""
    ids, start = list(ids), len(ids)
    for _ in range(count):
        best = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < 0.01:
            break
        ids.append(best.indices[0].item())
    return ids[start:]


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    text = data.decode("utf-8", errors="replace")
    return text, dict(name=os.path.basename(path), bytes=len(data),
                      sha256=hashlib.sha256(data).hexdigest())


def tiny_llama():
    model = LlamaForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(os.path.join(TINY, "tokenizer.json"))
    text, source = read(os.path.join(TINY, "eval.txt"))
    ids, prompt = tokenizer.encode(text).ids, tokenizer.encode(TINY_PROMPT).ids
    sampled = list(range(0, 1024, 4))
    story = greedy(model, prompt, 48)
    return dict(text=source, text_tokens=len(ids), first_ids=ids[:64],
                perplexity=perplexity(model, ids, 256), prompt=TINY_PROMPT,
                logits=logits(model, prompt, [0, len(prompt) // 2, len(prompt) - 1], sampled),
                greedy=story, greedy_text=tokenizer.decode(story, skip_special_tokens=False))


def smollm2(path, text_path):
    model, tokenizer = gguf_model.load_model(path), gguf_model.load_tokenizer(path)
    text, source = read(text_path or os.path.join(TINY, "eval.txt"))
    ids, prompt = tokenizer.encode(text).ids, tokenizer.encode(PROMPT).ids[:32]
    sampled = list(range(0, 49152, 245))
    return dict(text=source, text_tokens=len(ids), first_ids=ids[:64],
                perplexity=perplexity(model, ids, 512, limit=4), prompt=PROMPT,
                logits=logits(model, prompt, [0, 15, 31], sampled),
                greedy=greedy(model, prompt, 16))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write into")
    parser.add_argument("--gguf", help="the SmolLM2 file; without it, the tiny Llama is run")
    parser.add_argument("--text", help="another text for SmolLM2")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    name = "smollm2.json" if options.gguf else "perplexity.json"
    value = smollm2(options.gguf, options.text) if options.gguf else tiny_llama()
    with open(os.path.join(options.out, name), "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.write("\n")


if __name__ == "__main__":
    main()
