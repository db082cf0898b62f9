// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is learned? A group is a plug-in: views of parameters beside their gradients, a rate, what
// the backward pass must compute for it, and, where parameters act through others, how they spread
// and how gradients are gathered. The usual groups of a block are made here.

#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/linear_gradient.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup::tune {

template <class T>
struct ParameterView {
  std::span<T> values;
  std::span<const T> gradients;
};

template <class T>
struct ParameterGroup {
  std::string name;
  double rate = 0;  // of learning, before the schedule
  Wanted wanted = {};
  std::vector<ParameterView<T>> views = {};
  bool changes_weights = false;         // the block must be refreshed after a step
  std::function<void()> spread = {};    // parameters to what the block reads
  std::function<double()> gather = {};  // gradients back to the views; returns a penalty
  // spread() in a way that depends on the parameters alone, not on those before them.
  std::function<void()> renew = {};

  [[nodiscard]] std::size_t size() const {
    std::size_t count = 0;
    for (const auto& view : views) count += view.values.size();
    return count;
  }
  void add(std::span<T> values, std::span<const T> gradients) {
    if (!values.empty()) views.push_back({values, gradients});
  }
  void add(Matrix<T>& values, const Matrix<T>& gradients) {
    const auto count =
        static_cast<std::size_t>(values.rows()) * static_cast<std::size_t>(values.cols());
    add(std::span<T>(values.data(), count), std::span<const T>(gradients.data(), count));
  }
  // A clip; one of infinity is fixed.
  void add_clip(T& clip, const T& gradient) {
    if (std::isfinite(clip)) add(std::span<T>(&clip, 1), std::span<const T>(&gradient, 1));
  }
};

// The groups below view `gradient`, which must have been cleared for the block once (so that it has
// its shapes) and live as long as they.

template <class T>
ParameterGroup<T> weight_clips(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                               double rate) {
  ParameterGroup<T> group{.name = "weight clips",
                          .rate = rate,
                          .wanted = {.weight_clips = true},
                          .changes_weights = true};
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    if (!block.linears[i].rounding) continue;
    group.add(block.linears[i].clip_high, gradient.linears[i].clip_high);
    group.add(block.linears[i].clip_low, gradient.linears[i].clip_low);
  }
  return group;
}

// What rounding left for branches to make good is as large as the grid is coarse: `rate` is in its
// steps.
template <class T>
ParameterGroup<T> low_rank(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                           double rate) {
  ParameterGroup<T> group{
      .name = "low rank", .rate = rate * grid_step(block), .wanted = {.low_rank = true}};
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    group.changes_weights = group.changes_weights || block.linears[i].merged;
    group.add(block.linears[i].a, gradient.linears[i].a);
    group.add(block.linears[i].b, gradient.linears[i].b);
  }
  return group;
}

template <class T>
ParameterGroup<T> activation_clips(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                                   double rate) {
  ParameterGroup<T> group{
      .name = "activation clips", .rate = rate, .wanted = {.activation_clips = true}};
  for (std::size_t i = 0; i < block.inputs.size(); ++i) {
    if (block.inputs[i].rounding) group.add_clip(block.inputs[i].clip, gradient.clips[i]);
  }
  return group;
}

template <class T>
ParameterGroup<T> cache_clips(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                              double rate) {
  ParameterGroup<T> group{.name = "cache clips", .rate = rate, .wanted = {.cache_clips = true}};
  SimulatedCache<T>& cache = block.cache;
  if (!cache.keys.exact()) {
    group.add_clip(cache.key_high, gradient.key_high);
    group.add_clip(cache.key_low, gradient.key_low);
  }
  if (!cache.values.exact()) {
    group.add_clip(cache.value_high, gradient.value_high);
    group.add_clip(cache.value_low, gradient.value_low);
  }
  return group;
}

template <class T>
ParameterGroup<T> norm_gains(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                             double rate) {
  ParameterGroup<T> group{.name = "norm gains", .rate = rate, .wanted = {.norm_gains = true}};
  group.add(block.attention_norm.weight, gradient.attention_norm);
  group.add(block.mlp_norm.weight, gradient.mlp_norm);
  group.add(block.query_norm.weight, gradient.query_norm);
  group.add(block.key_norm.weight, gradient.key_norm);
  return group;
}

// What a backward pass must compute for all of them.
template <class T>
[[nodiscard]] Wanted wanted_by(std::span<const ParameterGroup<T>> groups) {
  Wanted all;
  for (const auto& group : groups) {
    const Wanted& w = group.wanted;
    all.weight_clips |= w.weight_clips, all.smoothing |= w.smoothing, all.low_rank |= w.low_rank;
    all.activation_clips |= w.activation_clips, all.cache_clips |= w.cache_clips;
    all.norm_gains |= w.norm_gains, all.input |= w.input;
    all.weight_scales |= w.weight_scales, all.biases |= w.biases;
  }
  return all;
}

}  // namespace bisup::tune
