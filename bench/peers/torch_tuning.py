# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""How long does one step of tuning a block take in PyTorch's autograd?

    python torch_tuning.py --tokens 512 --threads 1 --repeat 5

prints one JSON object a mode: milliseconds of processor time forwards and for the whole step, the
median of the runs (machines are shared; with one thread it is the time itself).
The shapes, formats and what is learned are those of bench/tune/block_gradient_bench.cpp: "all"
learns clips of weights, branches, clips of inputs and cache, and norms; "frozen" the same but the
weights, which are codes already, and gives the gradient of the block's input; "scales" a scale of
every group of those codes as well. bench/peers/tuning.py runs it beside ours. The block is the one
of tests/oracle/block_gradient.py, whose gradients are ours, with the quicker forms of its parts:
one clamp instead of exact masks, groups as an axis, a fused attention.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "oracle"))
import block_gradient  # noqa: E402

SHAPE = dict(hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536)
GROUP, RANK, BITS = 64, 32, 3


def round_groups(x, bits, group, keepers, clip, half):
    parts = x.view(x.shape[0], -1, group)
    highest = 2 ** (bits - 1) - 1
    share = clip if clip.ndim == 0 else clip[..., None]
    largest = parts.abs().amax(-1, keepdim=True) * share
    scale = block_gradient.stored(largest.clamp(min=1e-5) / highest, half)
    levels = block_gradient.rounded(parts / scale).clamp(-highest - 1, highest)
    return (levels * scale).view(x.shape)


def affine(x, bits, high_clip, low_clip):
    levels = 2 ** bits - 1
    high = (x.amax(-1, keepdim=True) * high_clip).clamp(min=0)
    low = (x.amin(-1, keepdim=True) * low_clip).clamp(max=0)
    scale = block_gradient.stored((high - low).clamp(min=1e-5) / levels, True)
    zero = block_gradient.rounded(-low / scale)
    return ((block_gradient.rounded(x / scale) + zero).clamp(0, levels) - zero) * scale


block_gradient.round_groups, block_gradient.affine = round_groups, affine


class Scaled(torch.nn.Module):
    """The block whose weights are codes times scales that are learned."""

    def __init__(self, block, p):
        super().__init__()
        self.block, self.p = block, p
        self.codes = {name: value for name, value in p.items() if name.endswith(".weight")}

    def forward(self, x, **options):
        for name, codes in self.codes.items():
            scale = self.p[name + ".log_scale"].exp()
            groups = codes.view(codes.shape[0], -1, GROUP)
            self.p[name] = (groups * scale[..., None]).view(codes.shape)
        return self.block.forward(x, **options)


def make(mode, tokens):
    frozen = mode != "all"
    torch.manual_seed(1)
    sizes = dict(q=(576, 576), k=(192, 576), v=(192, 576), o=(576, 576), gate=(1536, 576),
                 up=(1536, 576), down=(576, 1536))
    p = {}
    for name, (out, into) in sizes.items():
        p[name + ".weight"] = torch.randn(out, into) / into ** 0.5
        p[name + ".a"], p[name + ".b"] = 0.01 * torch.randn(RANK, into), 0.01 * torch.randn(out, RANK)
        if not frozen:
            p[name + ".clip"] = 0.1 * torch.randn(out, into // GROUP)
        if mode == "scales":
            p[name + ".weight.log_scale"] = torch.zeros(out, into // GROUP)
    for name in ("attention_input", "output_input", "mlp_input", "down_input"):
        p[name + ".clip"] = torch.tensor(1.0)
    p["attention_norm"], p["mlp_norm"] = torch.ones(576), torch.ones(576)
    for which in ("keys", "values"):
        p[which + ".high"], p[which + ".low"] = torch.tensor(3.0), torch.tensor(3.0)
    for name, value in p.items():
        value.requires_grad_(not name.endswith(".weight"))
    angles = torch.outer(torch.arange(tokens).float(), 1e4 ** (-torch.arange(32) / 32))
    weights = dict(bits=BITS, group=GROUP, keepers=0, half=True)
    inputs = dict(bits=BITS, group=GROUP, keepers=0, half=False)
    block = block_gradient.Block(SHAPE, p, weights, inputs, dict(keys=BITS, values=BITS),
                                 angles=(angles.cos(), angles.sin()))
    parameters = [value for value in p.values() if value.requires_grad]
    return Scaled(block, p) if mode == "scales" else block, parameters


def measure(mode, tokens, threads, repeat):
    block, parameters = make(mode, tokens)
    x, target = torch.randn(tokens, 576, requires_grad=mode != "all"), torch.randn(tokens, 576)

    def milliseconds(work):
        times = []
        for _ in range(repeat):
            start = time.process_time()
            work()
            times.append(1000 * (time.process_time() - start))
        return statistics.median(times)

    def forwards():
        with torch.no_grad():
            block.forward(x, fused_attention=True)

    def step():
        loss = (block.forward(x, fused_attention=True) - target).pow(2).sum()
        loss.backward()
        for value in parameters:
            value.grad = None
        x.grad = None

    step()                                        # the first run also allocates
    print(json.dumps(dict(mode=mode, tokens=tokens, threads=threads,
                          forwards_ms=round(milliseconds(forwards), 1),
                          step_ms=round(milliseconds(step), 1), peer=f"torch {torch.__version__}",
                          cpu=torch.backends.cpu.get_cpu_capability())), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for mode in ("all", "frozen", "scales"):
        measure(mode, options.tokens, options.threads, options.repeat)


if __name__ == "__main__":
    main()
