# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""How did the tiny Llama come to be? Trains its tokenizer and its weights on stories.py's text.

    python train.py --out . --minutes 15

writes model.safetensors (f16), config.json, generation_config.json, tokenizer.json,
tokenizer_config.json and eval.txt (held out: another seed), and prints the held-out perplexity.
It needs torch, transformers, tokenizers and safetensors, and one core of a CPU.
"""

import argparse
import json
import math
import os
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import stories

VOCABULARY = 1024
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EVALUATION_SEED_OFFSET = 1_000_003
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n'"
          " + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def train_tokenizer(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL,
                                  show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    for special in SPECIAL:                       # they are no words to learn merges from
        text = text.replace(special, "\n")
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return tokenizer


def new_model(tokenizer):
    end_of_text, _, end_of_turn = (tokenizer.token_to_id(s) for s in SPECIAL)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=384,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=end_of_text, eos_token_id=end_of_turn, pad_token_id=None))


def learning_rate(progress, peak):
    warm = min(1.0, progress / 0.02)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(model, ids, options):
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1},
                                   {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(options.seed)
    start, step, progress = time.time(), 0, 0.0
    while progress < 1.0:
        length = 256 if progress < 0.7 else 512   # whole conversations fit into the longer one
        at = torch.randint(0, len(ids) - length, (options.batch // length,), generator=generator)
        batch = torch.stack([ids[i:i + length] for i in at])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, options.learning_rate)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        spent = (time.time() - start) / 60
        progress = step / options.steps if options.steps else spent / options.minutes
        if step % 100 == 0:
            left = spent * (1 - progress) / progress
            print(f"step {step}: loss {loss.item():.4f}, {max(0.0, left):.1f} minutes left",
                  flush=True)
    return step


@torch.inference_mode()
def held_out(model, ids, context=256):
    """NLL and its standard error over windows that do not overlap, first positions unscored."""
    windows = [ids[i:i + context] for i in range(0, len(ids) - context + 1, context)]
    means = torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in windows]).double()
    return means.mean().item(), (means.std() / len(windows) ** 0.5).item(), len(windows)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=True)
        file.write("\n")


def save(model, tokenizer, folder):
    model.half().save_pretrained(folder)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    write_json(folder, "config.json", config | {"rope_theta": 10000.0})  # where older readers look
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    ids = {s: tokenizer.token_to_id(s) for s in SPECIAL}
    write_json(folder, "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]})
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False,
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": CHATML,
        "clean_up_tokenization_spaces": False, "model_max_length": 512})


@torch.inference_mode()
def continuation(model, tokenizer, prompt, tokens=220):
    ids = tokenizer.encode(prompt).ids
    ends = [tokenizer.token_to_id(s) for s in ("<|im_end|>", "<|endoftext|>")]
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
                         max_new_tokens=tokens, do_sample=False, eos_token_id=ends,
                         pad_token_id=ends[1])
    return tokenizer.decode(out[0, len(ids):].tolist())


def main():
    parser = argparse.ArgumentParser(description="Train the tiny Llama that bisup ships.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15.0, help="time to train for")
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of --minutes")
    parser.add_argument("--batch", type=int, default=2048, help="tokens in a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--characters", type=int, default=40_000_000, help="of training text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, help="folder to write into")
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    os.makedirs(options.out, exist_ok=True)

    text = stories.text(options.seed, options.characters)
    tokenizer = train_tokenizer(text[:4_000_000])
    ids = torch.tensor(tokenizer.encode(text).ids)
    print(f"{len(text)} characters, {len(ids)} tokens of {tokenizer.get_vocab_size()} kinds",
          flush=True)

    model = new_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    steps = train(model, ids, options)
    model.eval()
    save(model, tokenizer, options.out)
    evaluation = stories.text(options.seed + EVALUATION_SEED_OFFSET, 80_000)
    with open(os.path.join(options.out, "eval.txt"), "w", encoding="utf-8", newline="") as file:
        file.write(evaluation)

    model.float()                                 # scores the weights as they were written
    nll, error, windows = held_out(model, torch.tensor(tokenizer.encode(evaluation).ids))
    print(f"{steps} steps; held-out perplexity {math.exp(nll):.4f}"
          f" (NLL {nll:.4f} +- {error:.4f}, {windows} windows of 256 tokens)")
    print(continuation(model, tokenizer, "Once upon a time, there was a little fox named Ben."))
    print(continuation(model, tokenizer, "<|im_start|>user\nWhat does a cow say?<|im_end|>\n"
                       "<|im_start|>assistant\n"))


if __name__ == "__main__":
    main()
