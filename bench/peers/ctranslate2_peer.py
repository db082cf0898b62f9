# SPDX-License-Identifier: Apache-2.0
"""Runs CTranslate2 on a Llama model in a GGUF file: int8 weights with a scale a row, int8 activations.

    python ctranslate2_peer.py convert MODEL.gguf FOLDER
    python ctranslate2_peer.py bench FOLDER [-p 512] [-n 32] [-t 1]

bench prints JSON: tokens a second of reading the prompt and of generating, and the bytes of the weights.
"""

import argparse
import json
import os
import random
import time

import ctranslate2
import gguf
import numpy
from ctranslate2.specs import common_spec, transformer_spec


def field(reader, name):
    return reader.get_field(name).contents()


def convert(options):
    reader = gguf.GGUFReader(options.model)
    tensors = {t.name: t for t in reader.tensors}
    get = lambda name: numpy.ascontiguousarray(
        gguf.dequantize(tensors[name].data, tensors[name].tensor_type).astype(numpy.float32))
    heads, kv_heads = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        field(reader, "llama.block_count"), heads, activation=common_spec.Activation.SWISH, pre_norm=True,
        ffn_glu=True, rms_norm=True, rotary_dim=0,
        rotary_interleave=True,  # as GGUF has the rows of queries and keys
        rotary_base=field(reader, "llama.rope.freq_base"), num_heads_kv=None if kv_heads == heads else kv_heads)
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = get("token_embd.weight")
    decoder.projection.weight = get("output.weight" if "output.weight" in tensors else "token_embd.weight")
    decoder.layer_norm.gamma = get("output_norm.weight")
    for number, layer in enumerate(decoder.layer):
        block = lambda name: get(f"blk.{number}.{name}.weight")
        layer.self_attention.layer_norm.gamma = block("attn_norm")
        layer.self_attention.linear[0].weight = numpy.concatenate([block("attn_q"), block("attn_k"), block("attn_v")])
        layer.self_attention.linear[1].weight = block("attn_output")
        layer.ffn.layer_norm.gamma = block("ffn_norm")
        layer.ffn.linear_0.weight = block("ffn_gate")
        layer.ffn.linear_0_noact.weight = block("ffn_up")
        layer.ffn.linear_1.weight = block("ffn_down")
    tokens = field(reader, "tokenizer.ggml.tokens")
    spec.register_vocabulary(tokens)
    spec.config.bos_token = tokens[field(reader, "tokenizer.ggml.bos_token_id")]
    spec.config.eos_token = tokens[field(reader, "tokenizer.ggml.eos_token_id")]
    spec.config.unk_token = spec.config.eos_token
    spec.config.layer_norm_epsilon = float(field(reader, "llama.attention.layer_norm_rms_epsilon"))
    spec.validate()
    spec.optimize(quantization="int8")
    os.makedirs(options.folder, exist_ok=True)
    spec.save(options.folder)


def bench(options):
    generator = ctranslate2.Generator(options.folder, device="cpu", compute_type="int8", inter_threads=1,
                                      intra_threads=options.t)
    with open(os.path.join(options.folder, "vocabulary.json"), encoding="utf-8") as file:
        words = json.load(file)
    draw = random.Random(0)
    prompt = [words[draw.randrange(1000, len(words))] for _ in range(max(1, options.p))]

    def seconds(count):
        start = time.perf_counter()
        made = generator.generate_batch([prompt], max_length=count, min_length=count, sampling_topk=1,
                                        include_prompt_in_result=False, end_token=[])
        assert len(made[0].sequences_ids[0]) == count
        return time.perf_counter() - start

    seconds(1)
    first = seconds(1)
    print(json.dumps({
        "prefill": options.p / first, "decode": options.n / (seconds(1 + options.n) - first) if options.n else None,
        "bytes": os.path.getsize(os.path.join(options.folder, "model.bin")),
        "build": f"CTranslate2 {ctranslate2.__version__}"}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("convert")
    part.add_argument("model")
    part.add_argument("folder")
    part.set_defaults(run=convert)
    part = parts.add_parser("bench")
    part.add_argument("folder")
    part.add_argument("-p", type=int, default=512)
    part.add_argument("-n", type=int, default=32)
    part.add_argument("-t", type=int, default=1)
    part.set_defaults(run=bench)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
