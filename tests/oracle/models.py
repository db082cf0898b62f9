# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""What logits do small random models of every architecture and option have in transformers?

    python models.py --out FOLDER       writes FOLDER/models.json, the expected values
    python models.py --save FOLDER      writes each model as a Hugging Face folder, to run by hand

Nobody stores the weights: element i (row-major) of tensor t (its place in the "tensors" list of
the golden file, from 0) of a model with seed s is

    h = mix(s * 2^48 + t * 2^32 + i + 0x9e3779b97f4a7c15)            all modulo 2^64
    mix(z): z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
            z = (z ^ (z >> 27)) * 0x94d049bb133111eb
            z ^ (z >> 31)                                            splitmix64's finalizer
    value = offset + scale * ((h >> 48) - 32768) / 32768

with offset and scale from the list: scale is a power of two and the draw has 16 bits, so every
value is exact in float32, in whatever order it is computed. With offset 0 and scale 1, tensor 0 of
seed 1 begins 0.269683838, -0.993225098, -0.901733398.
"""

import argparse
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = [(37 * i + 11) % 128 for i in range(40)]
POSITIONS = [0, 1, 7, 20, 39]                     # whose logits are kept

COMMON = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=2, hidden_act="silu", rms_norm_eps=1e-5,
              max_position_embeddings=128, rope_theta=10000.0, tie_word_embeddings=False,
              bos_token_id=1, eos_token_id=2)
LLAMA = COMMON | dict(model_type="llama", architectures=["LlamaForCausalLM"])
MISTRAL = COMMON | dict(model_type="mistral", architectures=["MistralForCausalLM"])
QWEN2 = COMMON | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], rope_theta=1000000.0,
                      rms_norm_eps=1e-6, use_sliding_window=False)
QWEN3 = COMMON | dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], rope_theta=1000000.0,
                      rms_norm_eps=1e-6, head_dim=32, attention_bias=False,
                      use_sliding_window=False)

# The file's form of a config is the one published models have; new_rope_form has that of
# transformers 5. max_position_embeddings of yarn is factor times the original length.
CONFIGS = {
    "llama": LLAMA | dict(num_hidden_layers=3, intermediate_size=172),
    "llama_one_kv_head": LLAMA | dict(num_key_value_heads=1, tie_word_embeddings=True),
    "llama_head_dim": LLAMA | dict(head_dim=24, rope_theta=500000.0),
    "llama_attention_bias": LLAMA | dict(attention_bias=True),
    "llama_mlp_bias": LLAMA | dict(mlp_bias=True, intermediate_size=172),
    "llama_rope_llama3": LLAMA | dict(rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)),
    "llama_rope_linear": LLAMA | dict(rope_scaling=dict(type="linear", factor=2.5)),
    "llama_rope_yarn": LLAMA | dict(rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama_rope_yarn_given": LLAMA | dict(head_dim=32, rope_scaling=dict(
        rope_type="yarn", factor=2.0, original_max_position_embeddings=64, beta_fast=8.0,
        beta_slow=0.5, attention_factor=1.25)),
    "llama_new_rope_form": {k: v for k, v in LLAMA.items() if k != "rope_theta"} | dict(
        rope_parameters=dict(rope_type="linear", rope_theta=20000.0, factor=4.0)),
    "mistral_window": MISTRAL | dict(sliding_window=12),
    "mistral": MISTRAL | dict(sliding_window=None, head_dim=32),
    "qwen2": QWEN2 | dict(intermediate_size=172),
    "qwen2_tied": QWEN2 | dict(tie_word_embeddings=True),
    "qwen3": QWEN3 | dict(intermediate_size=172),
    "qwen3_tied": QWEN3 | dict(tie_word_embeddings=True, num_hidden_layers=3),
    "qwen3_rope_yarn": QWEN3 | dict(rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
}


def draw(seed, tensor, shape, offset, scale):
    count = int(np.prod(shape))
    base = np.uint64((seed << 48) + (tensor << 32)) + np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + base
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = ((z >> np.uint64(48)).astype(np.float32) - np.float32(32768)) / np.float32(32768)
    return (np.float32(offset) + np.float32(scale) * unit).reshape(shape)


def distribution(name):
    """Offset and scale that keep activations near 1, attention uneven and logits well spread."""
    if name.endswith("norm.weight"):
        return 1.0, 0.5
    if name.endswith(".bias"):
        return 0.0, 0.5
    if "embed_tokens" in name:
        return 0.0, 1.0
    return 0.0, 0.5 if "lm_head" in name else 0.25


def build(seed, config):
    torch.manual_seed(0)
    parsed = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(parsed, attn_implementation="eager",
                                             dtype=torch.float32).eval()
    names = [n for n, _ in model.named_parameters()]          # a tied lm_head is not listed twice
    tensors = []
    for index, (name, parameter) in enumerate(zip(names, model.parameters())):
        offset, scale = distribution(name)
        shape = list(parameter.shape)
        parameter.data.copy_(torch.from_numpy(draw(seed, index, shape, offset, scale)))
        tensors.append(dict(name=name, shape=shape, offset=offset, scale=scale))
    return model, tensors


def golden(seed, config):
    model, tensors = build(seed, config)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([TOKENS])).logits[0]
    kept = [[float(f"{x:.8g}") for x in logits[p].tolist()] for p in POSITIONS]
    return dict(seed=seed, config=config, tensors=tensors, logits=kept)


def save(name, seed, config, folder):
    folder = os.path.join(folder, name)
    os.makedirs(folder, exist_ok=True)
    model, _ = build(seed, config)
    save_file({n: p.detach().contiguous() for n, p in model.named_parameters()},
              os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="folder to write models.json into")
    parser.add_argument("--save", help="folder to write the models into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.save:
        for seed, (name, config) in enumerate(CONFIGS.items(), start=1):
            save(name, seed, config, options.save)
    if options.out:
        models = {name: golden(seed, config)
                  for seed, (name, config) in enumerate(CONFIGS.items(), start=1)}
        text = json.dumps(dict(tokens=TOKENS, positions=POSITIONS, models=models))
        text = text.replace(', "models": {', ',\n"models": {\n').replace('}, "', '},\n"')
        with open(os.path.join(options.out, "models.json"), "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
