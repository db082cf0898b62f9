// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Small simulated blocks with everything in them: grouped heads, biases, norms of queries and keys,
// a prompt, rotations, a gather, keepers, branches, smoothing.

#include <bisup/core/random.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace small {

using namespace bisup;

inline constexpr BlockShape shape{
    .hidden = 24, .heads = 4, .kv_heads = 2, .head_dim = 8, .intermediate = 20};
inline constexpr int tokens = 9, prompt = 3;

template <class T>
Matrix<T> normals(int rows, int cols, double deviation, Random& random) {
  Matrix<T> m(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (T& x : m.row(r)) x = static_cast<T>(deviation * random.normal());
  }
  return m;
}
template <class T>
std::vector<T> around(int count, double middle, double deviation, Random& random) {
  std::vector<T> v(static_cast<std::size_t>(count));
  for (T& x : v) x = static_cast<T>(middle + deviation * random.normal());
  return v;
}

// Neighbours turn by fixed angles, then all move by one: orthogonal and not symmetric.
template <class T>
struct Turn {
  void apply(MatrixRef<T> rows, ThreadPool&) const {
    for (int t = 0; t < rows.rows(); ++t) {
      T* x = rows.row_data(t);
      for (int i = 0; i + 1 < rows.cols(); ++i) turn(x[i], x[i + 1], static_cast<T>(0.3 + 0.1 * i));
    }
  }
  void apply_inverse(MatrixRef<T> rows, ThreadPool&) const {
    for (int t = 0; t < rows.rows(); ++t) {
      T* x = rows.row_data(t);
      for (int i = rows.cols() - 2; i >= 0; --i)
        turn(x[i], x[i + 1], static_cast<T>(-0.3 - 0.1 * i));
    }
  }
  static void turn(T& a, T& b, T angle) {
    const T c = std::cos(angle), s = std::sin(angle), before = a;
    a = c * before - s * b, b = s * before + c * b;
  }
};

template <class T>
struct Angles {
  Matrix<T> cosines{tokens, shape.head_dim / 2}, sines{tokens, shape.head_dim / 2};
  explicit Angles(int first) {
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < shape.head_dim / 2; ++i) {
        const double angle = (first + t) * std::pow(10.0, -i);
        cosines(t, i) = static_cast<T>(std::cos(angle));
        sines(t, i) = static_cast<T>(std::sin(angle));
      }
    }
  }
  tune::RopeAngles<T> view() const { return {cosines.ref(), sines.ref()}; }
};

struct Options {
  bool rounded = true, frozen_weights = false, norms = true, smoothing = true, rotated = true,
       branch_reads_rounded = false, affine_weights = false, prompt = true, merged = false;
  int rank = 2, recent = 0;
};

template <class T>
tune::SimulatedBlock<T> block(const Options& options, std::uint64_t seed = 1) {
  Random random(seed);
  const int heads = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  const auto linear = [&](int out, int in) {
    return FloatLinear<T>{normals<T>(out, in, 0.3, random), around<T>(out, 0, 0.2, random)};
  };
  FloatBlock<T> f;
  f.q = linear(heads, 24), f.k = linear(kv, 24), f.v = linear(kv, 24), f.o = linear(24, heads);
  f.gate = linear(20, 24), f.up = linear(20, 24), f.down = linear(24, 20);
  f.attention_norm = around<T>(24, 1, 0.2, random), f.mlp_norm = around<T>(24, 1, 0.2, random);
  if (options.norms) {
    f.query_norm = around<T>(8, 1, 0.2, random), f.key_norm = around<T>(8, 1, 0.2, random);
  }
  auto block = tune::simulated_block<T>(shape, std::move(f));
  for (auto& l : block.linears) {
    if (options.rank > 0) {
      l.a = normals<T>(options.rank, l.in(), 0.2, random);
      l.b = normals<T>(l.out(), options.rank, 0.2, random);
      l.kappa = static_cast<T>(0.75), l.merged = options.merged;
    }
    if (options.smoothing) {
      l.row_factor = around<T>(l.out(), 1, 0.1, random);
      l.column_factor = around<T>(l.in(), 1, 0.1, random);
    }
    if (!options.rounded || options.frozen_weights) continue;
    l.rounding = tune::RowRounding{
        .format = {.bits = 3,
                   .group = 8,
                   .zero = options.affine_weights ? Zero::affine : Zero::symmetric},
        .keepers = 4};
    l.clip_high = normals<T>(l.out(), l.rounding->groups(l.in()), 0.5, random);
    if (options.affine_weights) l.clip_low = normals<T>(l.out(), l.clip_high.cols(), 0.5, random);
  }
  for (int i = 0; i < tune::inputs; ++i) {
    auto& input = block.inputs[static_cast<std::size_t>(i)];
    const int in = i == tune::down_input ? 20 : i == tune::output_input ? heads : 24;
    if (options.rounded) {
      input.rounding = tune::RowRounding{
          .format = {.bits = 4, .group = i == 2 ? 0 : 8, .scale = Scale::f32}, .keepers = 4};
      input.clip = static_cast<T>(0.8 + 0.2 * i);
    }
    if (options.smoothing && i % 2 == 1) input.factor = around<T>(in, 1, 0.1, random);
    if (!options.rotated) continue;
    if (i == 1 || i == 3) input.rotation = tune::row_rotation<T>(Turn<T>{});
    if (i == 0 || i == 1) {
      input.order.resize(static_cast<std::size_t>(in));
      for (int j = 0; j < in; ++j) input.order[static_cast<std::size_t>(j)] = (5 * j + 3) % in;
    }
  }
  if (options.smoothing) {
    block.attention_norm.factor = around<T>(24, 1, 0.1, random);
    block.mlp_norm.factor = around<T>(24, 1, 0.1, random);
  }
  if (options.rounded) {
    block.cache.keys = {.bits = 4}, block.cache.values = {.bits = 3};
    block.cache.rotate_keys = options.rotated, block.cache.rotate_values = options.rotated;
    block.cache.key_high = 1, block.cache.key_low = static_cast<T>(1.5);
    block.cache.value_high = static_cast<T>(0.7), block.cache.value_low = 2;
    block.cache.sinks = 1, block.cache.through_range = true;
    block.cache.recent = options.recent;
  }
  if (options.prompt) {
    block.cache.prompt_keys = normals<T>(prompt, kv, 1, random);
    block.cache.prompt_values = normals<T>(prompt, kv, 1, random);
  }
  return block;
}

// sum of weights times the block's output: what gradients are checked on.
inline double weighted_output(tune::SimulatedBlock<double>& block, const Angles<double>& angles,
                              const Matrix<double>& x, const Matrix<double>& weights,
                              tune::BlockActivations<double>& activations, ThreadPool& pool) {
  Matrix<double> y(x.rows(), x.cols());
  refresh(block, pool);
  tune::forward<double>(block, angles.view(), x.ref(), activations, y.ref(), pool);
  double sum = 0;
  for (int t = 0; t < y.rows(); ++t) {
    for (int c = 0; c < y.cols(); ++c) sum += weights(t, c) * y(t, c);
  }
  return sum;
}

// Eight inputs and what a block, as it is, makes of them: six to learn from, two held out.
struct Lesson {
  std::vector<Matrix<float>> x, y;
  std::vector<tune::TuningSample<float>> samples;

  Lesson(const tune::SimulatedBlock<float>& teacher, const Angles<float>& angles,
         ThreadPool& pool) {
    Random random(3);
    tune::BlockActivations<float> activations;
    for (int i = 0; i < 8; ++i) {
      x.push_back(normals<float>(tokens, shape.hidden, 1, random));
      y.emplace_back(tokens, shape.hidden);
      tune::forward<float>(teacher, angles.view(), x.back().ref(), activations, y.back().ref(),
                           pool);
    }
    for (std::size_t i = 0; i < x.size(); ++i)
      samples.push_back({std::as_const(x[i]).ref(), std::as_const(y[i]).ref()});
  }
  [[nodiscard]] std::span<const tune::TuningSample<float>> training() const {
    return std::span(samples).first(6);
  }
  [[nodiscard]] std::span<const tune::TuningSample<float>> held_out() const {
    return std::span(samples).last(2);
  }
};

}  // namespace small
