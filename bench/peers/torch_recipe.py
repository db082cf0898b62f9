# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""What does PyTorch make of the same recipes? RTN, GPTQ, Atom and QuaRot, simulated block by block.

    python torch_recipe.py model.gguf --tokens crops.npy --recipe atom --layers 2 --threads 1

crops.npy (or .json) holds one list of ids a crop; a .json may hold an object of two such lists, `crops` and
`held_out`. Prints one JSON object: for every layer the loss |F_q(X_q) - F(X)|^2 / |F(X)|^2 of the block's
output, that of the crops that were held out, seconds, and the peak memory. The oracle of
calibrate/ and the peer of its time: options have the same meaning there. Plain on purpose.

Two streams run through the model: the float one, and the one of the quantized blocks. Keys are
rounded after RoPE. --rows-keep-nearest, --stage-activations and --propagate choose between what the
published code does and what our calibrator does.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import torch_rotation

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "oracle"))
import gguf_model  # noqa: E402

INPUTS = ("attention", "output", "mlp", "down")
READERS = {"attention": ("q", "k", "v"), "output": ("o",), "mlp": ("gate", "up"), "down": ("down",)}
RECIPES = {
    "rtn": dict(engine="nearest", basis="natural", weight_clip="1", act_clip="1", kv_clip="1"),
    "gptq": dict(engine="gptq", basis="natural", weight_clip="search", search_loss="squares",
                 act_clip="1", kv_clip="1"),
    "atom": dict(engine="gptq", basis="reordered", weight_clip="0.85", weight_grid="gptq",
                 act_clip="0.9", kv_clip="1", moments="rounded", stages="one",
                 stage_activations="rounded"),
    "quarot": dict(engine="gptq", basis="rotated", weight_clip="search", search_loss="power",
                   act_clip="0.9", kv_clip="0.95"),
}


def stored(step, kind):
    """A scale as it is stored: f16, not below its smallest normal number, or f32."""
    return step.half().float().clamp_min(2.0 ** -14) if kind == "f16" else step


def symmetric_step(largest, bits, clip, grid, kind):
    span = (largest * clip).clamp_min(1e-5)
    levels = 2 ** (bits - 1) - 1
    return stored(2 * span / (2 ** bits - 1) if grid == "gptq" else span / levels, kind)


def round_symmetric(v, step, bits):
    levels = 2 ** (bits - 1) - 1
    return (v * (1 / step)).round().clamp(-127 if bits == 8 else -levels - 1, levels) * step


def round_affine(v, bits, clip, kind):
    """The last axis shares a scale and a zero point; 0 lies in the range."""
    levels = 2 ** bits - 1
    high = (v.amax(-1, keepdim=True) * clip).clamp_min(0)
    low = (v.amin(-1, keepdim=True) * clip).clamp_max(0)
    step = stored((high - low).clamp_min(1e-5) / levels, kind)
    zero = (-low / step).round().clamp_max(levels)
    code = torch.minimum(torch.maximum((v * (1 / step)).round(), -zero), levels - zero)
    return code * step


def groups_of(cols, group):
    return [(at, min(at + group, cols)) for at in range(0, cols, group)]


def round_groups(v, bits, clip, group):
    """Activations: one scale a token and group, in float32; the last group may be shorter."""
    if bits >= 16:
        return v
    whole = v.shape[-1] // group * group
    parts = [v[..., :whole].unflatten(-1, (-1, group)), v[..., whole:].unsqueeze(-2)]
    rounded = []
    for part in parts:
        if part.shape[-1] * part.shape[-2]:
            step = symmetric_step(part.abs().amax(-1, keepdim=True), bits, clip, "plain", "f32")
            rounded.append(round_symmetric(part, step, bits).flatten(-2))
    return torch.cat(rounded, -1)


class WeightRounder:
    """The step of one group of columns: a constant clip, or a line search."""

    def __init__(self, options, layer):
        self.bits, self.grid = options.weight_bits, options.weight_grid
        self.kind, self.loss = options.weight_scale, options.search_loss
        clip = per_layer(options.weight_clip, layer)
        self.clip = None if clip == "search" else float(clip)

    def step(self, w, importance):
        """w: [rows, group]; importance: [group]."""
        largest = w.abs().amax(1, keepdim=True)
        if self.clip is not None:
            return symmetric_step(largest, self.bits, self.clip, self.grid, self.kind)
        best = least = None
        for i in range(80):
            step = symmetric_step(largest, self.bits, 1 - i / 100, self.grid, self.kind)
            error = (w - round_symmetric(w, step, self.bits)).abs()
            cost = (error ** 2.4 if self.loss == "power" else error ** 2 * importance).sum(1, True)
            if best is None:
                best, least = step, cost
            else:
                best, least = torch.where(cost < least, step, best), torch.minimum(cost, least)
        return best

    def round(self, w, importance, group):
        parts = [round_symmetric(w[:, a:b], self.step(w[:, a:b], importance[a:b]), self.bits)
                 for a, b in groups_of(w.shape[1], group)]
        return torch.cat(parts, 1)


def round_keepers(w, kind):
    """8 bits, one scale a row."""
    if w.shape[1] == 0:
        return w
    step = symmetric_step(w.abs().amax(1, keepdim=True), 8, 1.0, "plain", kind)
    return round_symmetric(w, step, 8)


def nearest(w, h, rounder, options, keepers):
    body = w.shape[1] - keepers
    return torch.cat([rounder.round(w[:, :body], h.diagonal()[:body], options.group),
                      round_keepers(w[:, body:], options.weight_scale)], 1)


def gptq(w, h, rounder, options, keepers):
    """h: [in, in]. Scales are found on the weights as they are at the start of each group."""
    w, h = w.clone(), h.clone()
    original, moments, importance = w.clone(), h.clone(), h.diagonal().clone()
    dead = h.diagonal() == 0
    w[:, dead] = original[:, dead] = 0
    damping = options.damping * h.diagonal()[~dead].mean()
    h[dead, dead] = 1
    h.diagonal().add_(damping)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    body, group = w.shape[1] - keepers, options.group
    block = max(options.block // group * group, group)
    result = torch.empty_like(w)
    for begin in range(0, body, block):
        end = min(begin + block, body)
        here = w[:, begin:end].clone()
        errors = torch.empty_like(here)
        for i in range(end - begin):
            if i % group == 0:
                last = min(i + group, end - begin)
                step = rounder.step(here[:, i:last], importance[begin + i:begin + last])[:, 0]
            column = here[:, i]
            rounded = round_symmetric(column, step, options.weight_bits)
            result[:, begin + i] = rounded
            errors[:, i] = (column - rounded) / upper[begin + i, begin + i]
            here[:, i + 1:] -= errors[:, i:i + 1] * upper[begin + i, begin + i + 1:end]
        w[:, end:] -= errors @ upper[begin:end, end:]
    result[:, body:] = round_keepers(w[:, body:], options.weight_scale)
    if options.rows_keep_nearest:
        plain = nearest(original, moments, rounder, options, keepers)
        cost = [((original - r) @ moments * (original - r)).sum(1, True) for r in (result, plain)]
        result = torch.where(cost[0] <= cost[1], result, plain)
    return result


class Block:
    """Weights [out, in] and norms of a layer; how its four inputs are transformed and rounded."""

    def __init__(self, model, layer, options):
        config, parts = model.config, model.model.layers[layer]
        self.w = {n: getattr(m, n + "_proj").weight.detach() for m, names in (
            (parts.self_attn, "qkvo"), (parts.mlp, ("gate", "up", "down"))) for n in names}
        self.norms = {"attention": parts.input_layernorm.weight.detach(),
                      "mlp": parts.post_attention_layernorm.weight.detach()}
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.options, self.layer = options, layer
        self.transform = {name: (lambda x: x) for name in INPUTS}
        self.keepers = dict.fromkeys(INPUTS, 0)
        self.rotate_heads = self.stream = None

    def columns(self, name):
        return self.w[READERS[name][0]].shape[1]

    def reorder(self, powers):
        """Channels by ascending power; the last are kept in 8 bits."""
        for at, name in enumerate(INPUTS):
            order = powers[name].argsort(stable=True)
            self.transform[name] = lambda x, order=order: x[..., order]
            for reader in READERS[name]:
                self.w[reader] = self.w[reader][:, order]
            given = self.options.keepers
            self.keepers[name] = (-(-(len(order) // 32) // 32) * 32 if given is None
                                  else int(given[at % len(given)]))

    def rotate(self):
        """QuaRot's rotations: the residual stream, values, across heads, d_ff, queries and keys."""
        hidden, seed = self.columns("attention"), int(per_layer(self.options.seeds, self.layer))
        self.stream = torch_rotation.Rotation(hidden, seed=seed)
        within = torch_rotation.Rotation(self.head_dim)
        across = torch_rotation.Rotation(self.heads, after=self.head_dim)
        wide = torch_rotation.Rotation(self.columns("down"))
        w = {name: value.double() for name, value in self.w.items()}
        for name, readers in (("attention", "qkv"), ("mlp", ("gate", "up"))):
            for reader in readers:
                w[reader] = self.stream(w[reader] * self.norms[name].double())
            self.norms[name] = torch.ones_like(self.norms[name])
        for writer in ("o", "down"):
            w[writer] = self.stream(w[writer].T).T
        w["v"] = within(w["v"].T.unflatten(-1, (-1, self.head_dim))).flatten(-2).T
        w["o"] = across(within(w["o"].unflatten(-1, (-1, self.head_dim))).flatten(-2))
        w["down"] = wide(w["down"])
        self.w = {name: value.float().contiguous() for name, value in w.items()}
        self.transform["output"], self.transform["down"] = across, wide
        self.rotate_heads = within

    def prepare(self, name, x, rounded):
        x = self.transform[name](x)
        if not rounded:
            return x
        keepers, options = self.keepers[name], self.options
        body = x.shape[-1] - keepers
        clip = float(per_layer(options.act_clip, self.layer))
        parts = [round_groups(x[..., :body], options.act_bits, clip, options.group)]
        if keepers:
            bits = 8 if options.act_bits < 16 else 16
            parts.append(round_groups(x[..., body:], bits, 1.0, keepers))
        return torch.cat(parts, -1)

    def normed(self, name, x):
        return F.rms_norm(x, x.shape[-1:], self.norms[name], self.eps)

    def attend(self, prepared, rope, rounded):
        """[tokens, heads * head_dim]"""
        q, k, v = (F.linear(prepared, self.w[n]).unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
                   for n in "qkv")                                   # [heads, tokens, head_dim]
        q, k = rotate_positions(q, rope), rotate_positions(k, rope)
        if self.rotate_heads:
            q, k = self.rotate_heads(q), self.rotate_heads(k)
        options = self.options
        if rounded and options.kv_bits < 16:
            k = round_affine(k, options.kv_bits, float(per_layer(options.key_clip, self.layer)),
                             options.kv_scale)
            v = round_affine(v, options.kv_bits, float(per_layer(options.value_clip, self.layer)),
                             options.kv_scale)
        y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True,
                                           enable_gqa=True)[0]
        return y.transpose(0, 1).flatten(1)

    def gated(self, prepared):
        return F.silu(F.linear(prepared, self.w["gate"])) * F.linear(prepared, self.w["up"])

    def run(self, x, rope, rounded, visit=lambda name, x: None):
        """The whole block; visit sees each input as its linears read it."""
        def read(name, x):
            x = self.prepare(name, x, rounded)
            visit(name, x)
            return x
        x = self.enter(x)
        attended = self.attend(read("attention", self.normed("attention", x)), rope, rounded)
        x = x + F.linear(read("output", attended), self.w["o"])
        gated = self.gated(read("mlp", self.normed("mlp", x)))
        return self.leave(x + F.linear(read("down", gated), self.w["down"]))

    def enter(self, x):
        return self.stream(x) if self.stream else x

    def leave(self, x):
        return self.stream.inverse(x) if self.stream else x

    def round_readers(self, name, h):
        rounder = WeightRounder(self.options, self.layer)
        engine = gptq if self.options.engine == "gptq" else nearest
        for reader in READERS[name]:
            if self.options.weight_bits < 16:
                self.w[reader] = engine(self.w[reader], h, rounder, self.options,
                                        self.keepers[name])


def rotate_positions(x, rope):
    cosines, sines = rope
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosines - b * sines, b * cosines + a * sines], -1)


class Moments:
    """H = sum of x x^T / tokens."""

    def __init__(self, columns):
        self.sum, self.tokens = torch.zeros(columns, columns), 0

    def add(self, x):
        self.sum.addmm_(x.T, x)
        self.tokens += len(x)

    def mean(self):
        return self.sum / self.tokens


def calibrate_in_one_pass(block, stream, rope, options):
    moments = {name: Moments(block.columns(name)) for name in INPUTS}
    rounded = options.moments == "rounded"
    if options.engine == "gptq" or any(c == "search" for c in options.weight_clip):
        for x in stream:
            block.run(x, rope, rounded, lambda name, x: moments[name].add(x))
    else:
        for m in moments.values():
            m.sum, m.tokens = torch.eye(len(m.sum)), 1
    for name in INPUTS:
        block.round_readers(name, moments[name].mean())


def calibrate_in_stages(block, stream, rope, options):
    """q, k, v; then o; then gate, up; then down: each on what those before left."""
    inner, seen = options.stage_activations == "rounded", options.moments == "rounded"

    def stage(name, inputs):
        moments = Moments(block.columns(name))
        for x in inputs:
            moments.add(block.prepare(name, x, seen))
        block.round_readers(name, moments.mean())

    xs = [block.enter(x) for x in stream]
    stage("attention", (block.normed("attention", x) for x in xs))
    attended = [block.attend(block.prepare("attention", block.normed("attention", x), inner), rope,
                             inner) for x in xs]
    stage("output", attended)
    xs = [x + F.linear(block.prepare("output", y, inner), block.w["o"])
          for x, y in zip(xs, attended)]
    del attended
    stage("mlp", (block.normed("mlp", x) for x in xs))
    stage("down", (block.gated(block.prepare("mlp", block.normed("mlp", x), inner)) for x in xs))


def rope_table(config, tokens):
    half = config.hidden_size // config.num_attention_heads // 2
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def relative(y, exact):
    return ((y - exact).double().square().sum(), exact.double().square().sum())


def calibrate_layer(block, exact, quantized, crops, rope, options):
    """Both streams hold the crops, so many, and then those that were held out."""
    powers = {name: torch.zeros(block.columns(name), dtype=torch.float64) for name in INPUTS}

    def add_power(name, x):
        powers[name] += x.square().sum(0, dtype=torch.float64)

    for i, x in enumerate(exact):
        exact[i] = block.run(x, rope, False, add_power if i < crops else lambda name, x: None)
    if options.basis == "reordered":
        block.reorder(powers)
    elif options.basis == "rotated":
        block.rotate()
    stages = calibrate_in_one_pass if options.stages == "one" or options.engine == "nearest" \
        else calibrate_in_stages
    stages(block, quantized[:crops], rope, options)
    sums = torch.zeros(3, 2, dtype=torch.float64)    # [all, without first tokens, held out], [error, size]
    for i, x in enumerate(quantized):
        quantized[i] = block.run(x, rope, options.propagate == "rounded")
        for row, skipped in ((0, 0), (1, 1)) if i < crops else ((2, 0),):
            sums[row] += torch.stack(relative(quantized[i][skipped:], exact[i][skipped:]))
    return (sums[:, 0] / sums[:, 1]).tolist()


def per_layer(values, layer):
    return values[0] if len(values) == 1 else values[layer]


def mebibytes(field):
    """VmRSS: now; VmHWM: at most, since the process began or forget_peak(). Linux only."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith(field))


def forget_peak():
    """Loading a model takes more than it leaves, and is not what is measured."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("--tokens", required=True, help=".npy or .json: crops of ids")
    parser.add_argument("--samples", type=int, help="only the first so many crops")
    parser.add_argument("--length", type=int, help="only the first so many ids of each")
    parser.add_argument("--recipe", choices=RECIPES, default="rtn")
    parser.add_argument("--layers", type=int, help="only the first so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weight-bits", type=int, default=4, help="16: as they are; so below")
    parser.add_argument("--act-bits", type=int, default=4)
    parser.add_argument("--kv-bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--block", type=int, default=128, help="columns, of GPTQ")
    clips = "one, or one a layer with commas"
    parser.add_argument("--weight-clip", help=clips + "; or search")
    parser.add_argument("--act-clip", help=clips)
    parser.add_argument("--kv-clip", help=clips + ", of keys and values")
    parser.add_argument("--key-clip", help=clips)
    parser.add_argument("--value-clip", help=clips)
    parser.add_argument("--seeds", default="0", help="of the residual rotation's signs: " + clips)
    parser.add_argument("--keepers", help="channels in 8 bits: one number, or four with commas for "
                        "the inputs attention, output, mlp, down; default d / 32 in whole 32s")
    parser.add_argument("--engine", choices=("nearest", "gptq"))
    parser.add_argument("--basis", choices=("natural", "reordered", "rotated"))
    parser.add_argument("--search-loss", choices=("squares", "power"))
    parser.add_argument("--weight-grid", choices=("plain", "gptq"))
    parser.add_argument("--weight-scale", choices=("f16", "f32"), default="f16")
    parser.add_argument("--kv-scale", choices=("f16", "f32"), default="f16")
    parser.add_argument("--moments", choices=("exact", "rounded"), help="inputs that H is made of")
    parser.add_argument("--stages", choices=("one", "four"))
    parser.add_argument("--stage-activations", choices=("exact", "rounded"),
                        help="what runs between the stages")
    parser.add_argument("--propagate", choices=("exact", "rounded"), default="rounded",
                        help="exact: rounded weights, but activations and cache as they are")
    parser.add_argument("--rows-keep-nearest", action="store_true",
                        help="a row that GPTQ makes worse keeps its nearest codes")
    options = parser.parse_args()
    defaults = dict(search_loss="squares", weight_grid="plain", moments="exact", stages="four",
                    stage_activations="exact") | RECIPES[options.recipe]
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.key_clip = options.key_clip or options.kv_clip
    options.value_clip = options.value_clip or options.kv_clip
    for name in ("weight_clip", "act_clip", "key_clip", "value_clip", "seeds", "keepers"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).split(","))
    return options


def crops_of(options):
    """The crops and those that are held out."""
    path = options.tokens
    crops = np.load(path).tolist() if path.endswith(".npy") else json.load(open(path))
    parts = (crops["crops"], crops["held_out"]) if isinstance(crops, dict) else (crops, [])
    return [[torch.tensor(crop[:options.length]) for crop in part[:options.samples]] for part in parts]


@torch.inference_mode()
def main():
    options = parse()
    torch.set_num_threads(options.threads)
    model = gguf_model.load_model(options.gguf)
    crops, held_out = crops_of(options)
    exact = [F.embedding(ids, model.model.embed_tokens.weight) for ids in crops + held_out]
    quantized = [x.clone() for x in exact]
    rope = rope_table(model.config, max(map(len, crops + held_out)))
    forget_peak()
    loaded, layers, start = mebibytes("VmRSS"), [], time.perf_counter()
    for layer in range(options.layers or model.config.num_hidden_layers):
        begin = time.perf_counter()
        block = Block(model, layer, options)
        loss, without_first, held_out_loss = calibrate_layer(block, exact, quantized, len(crops), rope,
                                                             options)
        layers.append(dict(layer=layer, loss=loss, loss_without_first_tokens=without_first,
                           held_out_loss=held_out_loss if held_out else None,
                           seconds=round(time.perf_counter() - begin, 3)))
        print(layers[-1], file=sys.stderr)
    print(json.dumps(dict(
        peer=f"torch {torch.__version__}", model=os.path.basename(options.gguf),
        cpu=torch.backends.cpu.get_cpu_capability(), options=vars(options), crops=len(crops),
        tokens=sum(map(len, crops)), layers=layers, seconds=round(time.perf_counter() - start, 3),
        loaded_mib=loaded, peak_mib=mebibytes("VmHWM"))))


if __name__ == "__main__":
    main()
