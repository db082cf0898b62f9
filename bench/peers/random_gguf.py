# SPDX-License-Identifier: Apache-2.0
"""Writes a GGUF file of TinyLlama-1.1B's shape with random weights in f16: what speed is measured on.

    python random_gguf.py OUT.gguf
"""

import sys

import gguf
import numpy

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 22, 32, 4, 32000


def main():
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    random = numpy.random.default_rng(0)
    shapes = {"token_embd": (VOCABULARY, HIDDEN), "output": (VOCABULARY, HIDDEN)}
    width = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        for name, shape in (("attn_q", (HIDDEN, HIDDEN)), ("attn_k", (width, HIDDEN)), ("attn_v", (width, HIDDEN)),
                            ("attn_output", (HIDDEN, HIDDEN)), ("ffn_gate", (INTERMEDIATE, HIDDEN)),
                            ("ffn_up", (INTERMEDIATE, HIDDEN)), ("ffn_down", (HIDDEN, INTERMEDIATE))):
            shapes[f"blk.{layer}.{name}"] = shape
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=numpy.float32) / numpy.sqrt(numpy.float32(shape[1]))
        writer.add_tensor(name + ".weight", values.astype(numpy.float16))
    norms = [f"blk.{layer}.{norm}" for layer in range(LAYERS) for norm in ("attn_norm", "ffn_norm")]
    for name in ["output_norm"] + norms:
        writer.add_tensor(name + ".weight", numpy.ones(HIDDEN, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
