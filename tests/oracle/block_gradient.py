# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""What gradients does PyTorch's autograd find for a simulated block?

    python block_gradient.py --out FOLDER      writes FOLDER/block_gradient.json

One block with everything that the tuner of bisup learns: clips of weights, of inputs and of the
cache, low-rank branches, norm gains, a stored prompt, grouped heads, biases, norms of queries and
keys, a gather, a rotation, an element-wise factor and keepers. The loss is the sum of `loss` times
the output. Tensors are drawn as models.py says, and listed in the file; of every gradient the file
holds the sum and a few elements.
"""

import argparse
import json
import os

import torch
import torch.nn.functional as F

import models

SHAPE = dict(hidden=24, heads=4, kv_heads=2, head_dim=8, intermediate=20)
TOKENS, PROMPT, RANK, SINKS, KEEPERS, KAPPA, EPS = 9, 3, 2, 1, 4, 0.75, 1e-5
WEIGHTS = dict(bits=3, group=8, keepers=KEEPERS, half=True)
INPUTS = dict(bits=4, group=8, keepers=KEEPERS, half=False)
KEPT = 7                                         # elements of each gradient


def rounded(x):
    """Rounds, and lets the gradient through."""
    return x + (x.round() - x).detach()


def levels_of(u, low, high):
    """Rounds u to levels low ... high. The mask is made of integers: what u + (round(u) - u) gives may
    lie a rounding beyond the bound, and clamp would let no gradient through."""
    level = u.detach().round()
    inside = u + (level - u.detach())
    below, above = level < low.detach().round(), level > high.detach().round()
    return torch.where(below, low, torch.where(above, high, inside))


def stored(scale, half):
    return scale + (scale.half().to(scale.dtype) - scale).detach() if half else scale


def symmetric(x, bits, clip, half):
    """The last axis is one group."""
    highest = 2 ** (bits - 1) - 1
    largest = x.abs().amax(-1, keepdim=True) * clip
    scale = stored(largest.clamp(min=1e-5) / highest, half)
    lowest = -highest if bits == 8 else -highest - 1
    return levels_of(x / scale, x.new_tensor(lowest), x.new_tensor(highest)) * scale


def affine(x, bits, high_clip, low_clip):
    levels = 2 ** bits - 1
    high = (x.amax(-1, keepdim=True) * high_clip).clamp(min=0)
    low = (x.amin(-1, keepdim=True) * low_clip).clamp(max=0)
    scale = stored((high - low).clamp(min=1e-5) / levels, True)
    zero = rounded(-low / scale)
    return levels_of(x / scale, -zero, levels - zero) * scale


def round_groups(x, bits, group, keepers, clip, half):
    """clip: one number, or [rows, groups]. The last `keepers` columns have 8 bits and no clip."""
    body = x[..., : x.shape[-1] - keepers]
    parts = []
    for i in range(0, body.shape[-1], group):
        share = clip if clip.ndim == 0 else clip[..., i // group, None]
        parts.append(symmetric(body[..., i : i + group], bits, share, half))
    if keepers:
        parts.append(symmetric(x[..., -keepers:], 8, 1.0, half))
    return torch.cat(parts, -1)


def walsh(n):
    h = torch.ones(1, 1, dtype=torch.float64)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / n ** 0.5


def rope(x, cosines, sines):                     # [heads, tokens, head_dim]
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosines - b * sines, b * cosines + a * sines], -1)


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


class Block:
    """`p`: the parameters by name. What is absent (a clip, a branch, a norm) does not happen."""

    def __init__(self, shape, p, weights, inputs, kv_bits, sinks=0, kappa=1.0, orders={},
                 rotations={}, angles=None, rotate_kv=None):
        self.shape, self.p, self.weights, self.inputs = shape, p, weights, inputs
        self.kv_bits, self.sinks, self.kappa = kv_bits, sinks, kappa
        self.orders, self.rotations, self.angles, self.rotate_kv = orders, rotations, angles, rotate_kv

    def prepare(self, name, x):
        if name in self.rotations:
            x = x @ self.rotations[name]
        if name in self.orders:
            x = x[:, self.orders[name]]
        if name + ".factor" in self.p:
            x = x * self.p[name + ".factor"]
        return x, round_groups(x, clip=torch.sigmoid(self.p[name + ".clip"]), **self.inputs)

    def weight(self, name):
        w = self.p[name + ".weight"]
        if name + ".clip" not in self.p:
            return w
        return round_groups(w, clip=torch.sigmoid(self.p[name + ".clip"]), **self.weights)

    def linear(self, name, prepared):
        exact, values = prepared
        y = F.linear(values, self.weight(name), self.p.get(name + ".bias"))
        if name + ".a" in self.p:
            y = y + self.kappa * (exact @ self.p[name + ".a"].T) @ self.p[name + ".b"].T
        return y

    def heads(self, x):                          # [heads, tokens, head_dim]
        return x.view(x.shape[0], -1, self.shape["head_dim"]).transpose(0, 1)

    def cached(self, which, x):
        high, low = (torch.sigmoid(self.p[f"{which}.{side}"]) for side in ("high", "low"))
        turned = x if self.rotate_kv is None else x @ self.rotate_kv
        turned = affine(turned, self.kv_bits[which], high, low)
        turned = turned if self.rotate_kv is None else turned @ self.rotate_kv.T
        turned = torch.cat([x[:, : self.sinks], turned[:, self.sinks :]], 1)
        if which + ".prompt" in self.p:
            turned = torch.cat([self.heads(self.p[which + ".prompt"]), turned], 1)
        return turned

    def forward(self, x, fused_attention=False):
        p, shape = self.p, self.shape
        prepared = self.prepare("attention_input", norm(x, p["attention_norm"]))
        q, k, v = (self.heads(self.linear(name, prepared)) for name in ("q", "k", "v"))
        if "query_norm" in p:
            q, k = norm(q, p["query_norm"]), norm(k, p["key_norm"])
        q, k = rope(q, *self.angles), rope(k, *self.angles)
        k, v = self.cached("keys", k), self.cached("values", v)
        if fused_attention:
            out = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True,
                                                 enable_gqa=True)[0]
        else:
            group = shape["heads"] // shape["kv_heads"]
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
            scores = q @ k.transpose(1, 2) / shape["head_dim"] ** 0.5
            tokens, seen = scores.shape[1:]
            mask = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens)
            out = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        out = out.transpose(0, 1).reshape(x.shape[0], -1)
        x = x + self.linear("o", self.prepare("output_input", out))
        prepared = self.prepare("mlp_input", norm(x, p["mlp_norm"]))
        hidden = F.silu(self.linear("gate", prepared)) * self.linear("up", prepared)
        return x + self.linear("down", self.prepare("down_input", hidden))


def specification():
    """Name, shape, offset and scale of every tensor, in the order of their draws."""
    s, heads, kv = SHAPE, SHAPE["heads"] * SHAPE["head_dim"], SHAPE["kv_heads"] * SHAPE["head_dim"]
    sizes = dict(q=(heads, 24), k=(kv, 24), v=(kv, 24), o=(24, heads), gate=(20, 24), up=(20, 24),
                 down=(24, 20))
    tensors = []
    for name, (out, into) in sizes.items():
        groups = -(-(into - KEEPERS) // WEIGHTS["group"])
        tensors += [(name + ".weight", [out, into], 0.0, 0.5), (name + ".bias", [out], 0.0, 0.25),
                    (name + ".clip", [out, groups], 0.5, 0.5),
                    (name + ".a", [RANK, into], 0.0, 0.25), (name + ".b", [out, RANK], 0.0, 0.25)]
    for name in ("attention_input", "output_input", "mlp_input", "down_input"):
        tensors.append((name + ".clip", [1], 1.0, 0.25))
    tensors += [("output_input.factor", [heads], 1.0, 0.25), ("attention_norm", [24], 1.0, 0.25),
                ("mlp_norm", [24], 1.0, 0.25), ("query_norm", [8], 1.0, 0.25),
                ("key_norm", [8], 1.0, 0.25)]
    for which in ("keys", "values"):
        tensors += [(f"{which}.high", [1], 1.0, 0.5), (f"{which}.low", [1], 1.0, 0.5),
                    (f"{which}.prompt", [PROMPT, kv], 0.0, 1.0)]
    return tensors + [("x", [TOKENS, s["hidden"]], 0.0, 1.0), ("loss", [TOKENS, s["hidden"]], 0.0, 1.0)]


def golden():
    tensors, values = [], {}
    for index, (name, shape, offset, scale) in enumerate(specification()):
        drawn = torch.from_numpy(models.draw(1, index, shape, offset, scale)).double()
        if shape == [1]:
            drawn = drawn[0]
        values[name] = drawn.clone().requires_grad_(name != "loss" and "prompt" not in name)
        tensors.append(dict(name=name, shape=shape, offset=offset, scale=scale))
    angles = torch.outer(torch.arange(PROMPT, PROMPT + TOKENS).double(), 10.0 ** -torch.arange(4.0).double())
    across = torch.kron(walsh(4), torch.eye(8, dtype=torch.float64))
    block = Block(SHAPE, values, WEIGHTS, INPUTS, dict(keys=4, values=3), SINKS, KAPPA,
                  orders=dict(attention_input=(5 * torch.arange(24) + 3) % 24),
                  rotations=dict(output_input=across), angles=(angles.cos(), angles.sin()),
                  rotate_kv=walsh(8))
    loss = (values["loss"] * block.forward(values["x"])).sum()
    loss.backward()
    gradients = {}
    for name, value in values.items():
        if value.grad is None:
            continue
        flat = value.grad.flatten()
        step = max(1, len(flat) // KEPT)
        gradients[name] = dict(sum=float(f"{flat.sum():.10g}"), step=step,
                               values=[float(f"{g:.10g}") for g in flat[::step].tolist()])
    return dict(seed=1, tensors=tensors, value=float(f"{loss.item():.10g}"), gradients=gradients)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write block_gradient.json into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = json.dumps(golden())
    text = text.replace('}, {"name"', '},\n{"name"').replace('}, "', '},\n"')
    with open(os.path.join(options.out, "block_gradient.json"), "w", encoding="utf-8") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
