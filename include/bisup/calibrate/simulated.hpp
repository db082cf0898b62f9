// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a finished block come to the tuner, and back? Its codes become floats that nothing
// rounds again; clips, biases, norm gains and low-rank branches are what may be learned. What comes
// back is rounded as it will be stored.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/cache/prompt_cache.hpp>
#include <bisup/calibrate/block_pass.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup {

// A clip of 1 has no finite logit; this is where one that may be learned starts, at some cost in
// steps near the ends of the range: more with many bits.
[[nodiscard]] inline float clip_logit(float share, int bits) {
  return tune::logit(std::min(share, bits > 4 ? 0.999f : 0.995f));
}

namespace detail {

// [out, in], keepers last.
[[nodiscard]] inline Matrix<float> float_weights(const llama::AnyLinear& linear, ThreadPool& pool) {
  Matrix<float> body = llama::as_matrix(linear.weights(), pool);
  if (linear.keepers() == nullptr) return body;
  Matrix<float> all(linear.out(), linear.in());
  for (int r = 0; r < all.rows(); ++r)
    std::copy_n(body.row(r).data(), body.cols(), all.row(r).data());
  dequantize(linear.keepers()->panels(), 0, all.ref().cols(body.cols(), linear.keepers()->cols()),
             pool);
  return all;
}

template <class T>
[[nodiscard]] tune::SimulatedInput<T> simulated_input(const llama::InputForm& form) {
  tune::SimulatedInput<T> input;
  if (form.rotates()) input.rotation = tune::row_rotation<T>(form.rotation);
  input.order = form.order, input.factor = form.multiplier;
  if (!form.format) return input;
  const ActivationFormat& f = *form.format;
  input.rounding = tune::RowRounding{
      .format = {.bits = f.bits, .group = f.token_scales ? 0 : f.group, .scale = Scale::f32},
      .keepers = form.keepers};
  input.clip = clip_logit(f.clip, f.bits);
  return input;
}

}  // namespace detail

// `entry`: how the block's keys and values are rounded; `policy`: what else the cache does. T is
// float; it is a parameter so that a program that never tunes does not compile the tuner.
template <class T = float>
[[nodiscard]] tune::SimulatedBlock<T> simulated(const Block& block, const BlockShape& shape,
                                                const KvEntry& entry, const KvPolicy& policy,
                                                ThreadPool& pool) {
  tune::SimulatedBlock<T> s;
  s.shape = shape;
  for (std::size_t i = 0; i < s.linears.size(); ++i) {
    const llama::AnyLinear& linear = block.*llama::named_linears[i].linear;
    s.linears[i].weights = detail::float_weights(linear, pool);
    s.linears[i].bias = linear.bias();
    if (linear.packed() != nullptr) {
      s.linears[i].codes =
          tune::RowRounding{.format = linear.packed()->format(),
                            .keepers = linear.keepers() == nullptr ? 0 : linear.keepers()->cols()};
      s.linears[i].stored = [packed = *linear.packed()](MatrixRef<T> weights, ThreadPool& threads) {
        dequantize(packed.panels(), 0, weights.cols(0, packed.cols()), threads);
      };
    }
    if (const llama::Branch* branch = linear.branch()) {
      s.linears[i].a = branch->a_values();
      s.linears[i].b = transposed(branch->b_values().ref());
    }
  }
  for (std::size_t i = 0; i < s.inputs.size(); ++i)
    s.inputs[i] = detail::simulated_input<T>(block.inputs.*llama::named_inputs[i].input);
  s.attention_norm.weight = block.norms.attention, s.mlp_norm.weight = block.norms.mlp;
  s.query_norm.weight = block.norms.query, s.key_norm.weight = block.norms.key;
  s.cache = {.keys = entry.keys,
             .values = entry.values,
             .rotate_keys = policy.rotate_keys,
             .rotate_values = policy.rotate_values};
  if (!entry.keys.exact()) {
    s.cache.key_high = clip_logit(entry.key_clip.high, entry.keys.bits);
    s.cache.key_low = clip_logit(entry.key_clip.low, entry.keys.bits);
  }
  if (!entry.values.exact()) {
    s.cache.value_high = clip_logit(entry.value_clip.high, entry.values.bits);
    s.cache.value_low = clip_logit(entry.value_clip.low, entry.values.bits);
  }
  return s;
}

// All tokens come after one layer of a stored prompt.
template <class T>
void begin_with(tune::SimulatedCache<T>& cache, const PromptCache& prompt, int layer) {
  if (prompt.empty()) return;
  const auto copy = [](const DenseView& from, Matrix<T>& into) {
    into.resize(from.rows, from.cols);
    for (int t = 0; t < from.rows; ++t) {
      for (int i = 0; i < from.cols; ++i) into(t, i) = from(t, i);
    }
  };
  copy(prompt.keys(layer), cache.prompt_keys), copy(prompt.values(layer), cache.prompt_values);
}

// Writes what was learned into the block: scales, biases, branches in their type, clips, norms, the
// cache's clips.
// Errors: not_finite (a scale), out_of_memory.
template <class T>
[[nodiscard]] Result<void> take_back(const tune::SimulatedBlock<T>& tuned, Block& block,
                                     std::vector<KvEntry>& kv, DType branch_type) {
  for (std::size_t i = 0; i < tuned.linears.size(); ++i) {
    const tune::SimulatedLinear<T>& from = tuned.linears[i];
    llama::AnyLinear& linear = block.*llama::named_linears[i].linear;
    if (!from.shift.empty()) linear.set_bias(from.effective_bias());
    if (from.log_scale.rows() > 0) {
      Matrix<float> factors(from.out(), from.log_scale.cols());
      for (int r = 0; r < factors.rows(); ++r) {
        for (int g = 0; g < factors.cols(); ++g) factors(r, g) = std::exp(from.log_scale(r, g));
      }
      auto weights = rescaled(*linear.packed(), factors.ref());
      if (!weights) return weights.error();
      linear.set_packed(std::move(weights).value());
    }
    if (from.rank() == 0) continue;
    Matrix<float> b = transposed(from.b.ref());
    for (int r = 0; r < b.rows(); ++r) {
      for (float& v : b.row(r)) v *= from.kappa;
    }
    linear.set_branch(llama::stored_branch(from.a.clone(), std::move(b), branch_type));
  }
  for (std::size_t i = 0; i < tuned.inputs.size(); ++i) {
    auto& form = block.inputs.*llama::named_inputs[i].input;
    if (form.format) form.format->clip = tune::logistic(tuned.inputs[i].clip);
  }
  block.norms.attention = tuned.attention_norm.effective();
  block.norms.mlp = tuned.mlp_norm.effective();
  block.norms.query = tuned.query_norm.weight, block.norms.key = tuned.key_norm.weight;
  for (KvEntry& entry : kv) {
    entry.key_clip = {tune::logistic(tuned.cache.key_high), tune::logistic(tuned.cache.key_low)};
    entry.value_clip = {tune::logistic(tuned.cache.value_high),
                        tune::logistic(tuned.cache.value_low)};
  }
  return {};
}

}  // namespace bisup
