// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How many steps of tuning a second, beside the products that a step cannot do without? One block
// of SmolLM2's size (or the shape given), W3A3KV3-g64 with branches of rank 32:
//
//     bench_tune_block_gradient [tokens] [threads] [repeats]
//
// prints one line a mode, multiplied in floats and in words: milliseconds of processor time
// forwards and backwards, the same products alone, and their ratio. "all" learns clips of weights,
// branches, clips of inputs and norms; "frozen" the same but the weights, which are codes already;
// "scales" the scales of those codes as well, which is what the recipes do.
// bench/peers/torch_tuning.py is the same step in PyTorch, bench/peers/tuning.py runs both.

#include <bisup/core/random.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/weight_scales.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "../probe.hpp"

namespace {

using namespace bisup;
using namespace bisup::tune;

constexpr BlockShape shape{
    .hidden = 576, .heads = 9, .kv_heads = 3, .head_dim = 64, .intermediate = 1536};
constexpr int rank = 32, group = 64;

Matrix<float> normals(int rows, int cols, double deviation, Random& random) {
  Matrix<float> m(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (float& x : m.row(r)) x = static_cast<float>(deviation * random.normal());
  }
  return m;
}

enum class Mode { all, frozen, scales };
constexpr const char* names[] = {"all", "frozen", "scales"};

SimulatedBlock<float> block(Mode mode, Random& random) {
  const auto linear = [&](int out, int in) {
    return FloatLinear<float>{normals(out, in, 1 / std::sqrt(in), random), {}};
  };
  FloatBlock<float> f{linear(576, 576),
                      linear(192, 576),
                      linear(192, 576),
                      linear(576, 576),
                      linear(1536, 576),
                      linear(1536, 576),
                      linear(576, 1536),
                      std::vector<float>(576, 1.0f),
                      std::vector<float>(576, 1.0f),
                      {},
                      {}};
  auto b = simulated_block(shape, std::move(f));
  for (auto& l : b.linears) {
    l.a = normals(rank, l.in(), 0.01, random), l.b = normals(l.out(), rank, 0.01, random);
    const RowRounding rounding{.format = {.bits = 3, .group = group}};
    if (mode == Mode::scales) l.codes = rounding;
    if (mode != Mode::all) continue;
    l.rounding = rounding;
    l.clip_high = normals(l.out(), l.rounding->groups(l.in()), 0.1, random);
  }
  for (auto& input : b.inputs) {
    input.rounding = RowRounding{.format = {.bits = 3, .group = group, .scale = Scale::f32}};
    input.clip = 1;
  }
  b.cache.keys = b.cache.values = {.bits = 3};
  b.cache.key_high = b.cache.key_low = b.cache.value_high = b.cache.value_low = 3;
  begin_scales(b);
  return b;
}

// Of the processor, for machines are shared; with several threads what they wait is in it too.
template <class Work>
double milliseconds(int repeats, Work&& work) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const std::clock_t start = std::clock();
    work();
    times.push_back(1000.0 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return bench::median(times);
}

// What a step multiplies at least: x W^T, dy W and, if weights are learned about, dy^T x.
double products(const SimulatedBlock<float>& b, int tokens, bool weights, Products kind,
                int repeats, ThreadPool& pool) {
  Random random(3);
  std::vector<Matrix<float>> x, y;
  for (const auto& l : b.linears) {
    x.push_back(normals(tokens, l.in(), 1, random)),
        y.push_back(normals(tokens, l.out(), 1, random));
  }
  Matrix<float> out(std::max(tokens, 1536), 1536);
  return milliseconds(repeats, [&] {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto& l = b.linears[i];
      const auto into = [&](int rows, int cols) {
        return MatrixRef<float>(out.data(), rows, cols);
      };
      multiply_transposed(x[i].ref(), l.weights.ref(), into(tokens, l.out()), Into::replace, pool,
                          kind);
      multiply(y[i].ref(), l.weights.ref(), into(tokens, l.in()), Into::replace, pool, kind);
      if (!weights) continue;
      transposed_multiply(y[i].ref(), x[i].ref(), into(l.out(), l.in()), Into::replace, pool, kind);
    }
  });
}

void measure(Mode mode, Products kind, int tokens, int repeats, ThreadPool& pool) {
  Random random(1);
  auto b = block(mode, random);
  multiply_in(b, kind);
  const auto x = normals(tokens, 576, 1, random), target = normals(tokens, 576, 1, random);
  Matrix<float> cosines(tokens, 32), sines(tokens, 32), y(tokens, 576);
  for (int t = 0; t < tokens; ++t) {
    for (int i = 0; i < 32; ++i) {
      const double angle = t * std::pow(1e4, -i / 32.0);
      cosines(t, i) = static_cast<float>(std::cos(angle));
      sines(t, i) = static_cast<float>(std::sin(angle));
    }
  }
  const RopeAngles<float> angles{cosines.ref(), sines.ref()};
  const Wanted wanted{.weight_clips = mode == Mode::all,
                      .low_rank = true,
                      .activation_clips = true,
                      .cache_clips = true,
                      .norm_gains = true,
                      .weight_scales = mode == Mode::scales,
                      .input = mode != Mode::all};
  BlockActivations<float> a;
  BlockGradient<float> gradient;
  BlockScratch<float> scratch;
  const auto run = [&] {
    refresh(b, pool);
    forward<float>(b, angles, x.ref(), a, y.ref(), pool);
  };
  run(), gradient.clear(b);
  const double forwards = milliseconds(repeats, run);
  const double both = milliseconds(repeats, [&] {
    run();
    gradient.clear(b);
    Matrix<float> g = y.clone();
    backward<float>(b, angles, a, g.ref(), wanted, gradient, scratch, pool);
  });
  const double least = products(b, tokens, mode != Mode::frozen, kind, repeats, pool);
  std::printf(
      "%-6s %s %d tokens, %d threads: forwards %.1f ms, step %.1f ms, products %.1f ms, "
      "step / products %.2f, steps/s %.2f\n",
      names[static_cast<int>(mode)], kind == Products::words ? "words" : "floats", tokens,
      pool.threads(), forwards, both, least, both / least, 1000 / both);
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  const int tokens = argument(1, 512), repeats = argument(3, 7);
  ThreadPool pool(argument(2, 1));
  for (const Mode mode : {Mode::all, Mode::frozen, Mode::scales}) {
    for (const Products kind : {Products::floats, Products::words})
      measure(mode, kind, tokens, repeats, pool);
  }
}
