# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""How does a llama GGUF become a transformers model? Dequantized by PyPI gguf, row order put back.

A llama GGUF stores the rows of q and k of each head interleaved (0, d/2, 1, d/2+1, ...), because
it rotates neighbours; transformers rotates halves, so the rows are un-interleaved here.
"""

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL, USER_DEFINED = 3, 4                      # values of tokenizer.ggml.token_type


def field(reader, key):
    return reader.fields[key].contents()


def halves_from_neighbours(weight, heads):
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load_model(path, attention="sdpa"):
    """The file's weights in float32, in a LlamaForCausalLM."""
    reader = GGUFReader(path)
    if field(reader, "general.architecture") != "llama":
        raise ValueError(f"{path}: not a llama GGUF")
    heads = field(reader, "llama.attention.head_count")
    kv_heads = field(reader, "llama.attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        stem = tensor.name.removesuffix(".weight")
        if stem in TOP:
            name = TOP[stem]
        else:
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{NAMES[part]}"
            if part in ("attn_q", "attn_k"):
                weight = halves_from_neighbours(weight, heads if part == "attn_q" else kv_heads)
        state[name + ".weight"] = torch.from_numpy(np.ascontiguousarray(weight))
    tied = "lm_head.weight" not in state
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0],
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default",
                         "rope_theta": field(reader, "llama.rope.freq_base")},
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation=attention)
    with torch.device("meta"):                    # no time spent on random weights
        model = LlamaForCausalLM(config)
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    # Not in the file: the rotation's frequencies, which the meta device left without values.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.eval()


def load_tokenizer(path):
    """Byte-level BPE of the file's tokens and merges; digits one by one, as `smollm` says."""
    reader = GGUFReader(path)
    if field(reader, "tokenizer.ggml.pre") != "smollm":
        raise ValueError(f"{path}: its pre-tokenizer is not smollm")
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ", 1)) for m in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, types) if kind == CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False)
                          for t, kind in zip(tokens, types) if kind == USER_DEFINED])
    return tokenizer
