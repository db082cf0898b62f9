# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""How fast does PyTorch prefill this GGUF in float32? The peer that our float prefill runs beside.

    python torch_prefill.py SmolLM2-135M-Instruct.Q4_1.gguf --tokens 512 --threads 2 --repeat 5

prints one JSON object: the median, and each run, in tokens a second. The prefill fills a KV cache,
attends with scaled_dot_product_attention and computes the last token's logits only.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "oracle"))
import gguf_model  # noqa: E402


@torch.inference_mode()
def prefill(model, ids):
    start = time.perf_counter()
    model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5, help="at least 2")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = gguf_model.load_model(options.gguf, attention="sdpa")
    ids = torch.arange(options.tokens)[None] * 97 % model.config.vocab_size
    prefill(model, ids)                           # the first run also allocates
    rates = [options.tokens / prefill(model, ids) for _ in range(options.repeat)]
    print(json.dumps(dict(
        peer=f"torch {torch.__version__}, transformers {transformers.__version__}",
        model=os.path.basename(options.gguf), precision="float32", attention="sdpa",
        cpu=torch.backends.cpu.get_cpu_capability(), n_prompt=options.tokens,
        n_threads=options.threads, median_ts=statistics.median(rates),
        avg_ts=statistics.mean(rates), stddev_ts=statistics.stdev(rates), samples_ts=rates)))


if __name__ == "__main__":
    main()
