// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a block learned about before it is rounded for good? In floats whose weights are rounded
// to nearest while it is tuned, straight through; what was learned is then part of the floats that
// the recipe rounds. smooth_block.hpp and merge_branches.hpp do so.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/block_report.hpp>
#include <bisup/calibrate/simulated.hpp>
#include <bisup/calibrate/transform_block.hpp>
#include <bisup/core/format.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/quant/clip_search.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup {

// What is to be learned about: in its basis, its channels in order.
struct UnroundedStart {
  const BasisBlock& block;
  const SitePower& power;     // of the prepared inputs
  Format format;              // of its weights
  const BlockReport& report;  // of which inputs[].largest_after and keepers are read
};

namespace detail {

// Weights, as they are now, are rounded to nearest, each group as far clipped as costs least on
// what it reads.
template <class T>
void round_weights(tune::SimulatedBlock<T>& block, const UnroundedStart& start, ThreadPool& pool) {
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    auto& linear = block.linears[i];
    const auto site = static_cast<std::size_t>(tune::input_of[i]);
    const tune::RowRounding rounding{.format = start.format,
                                     .keepers = start.report.inputs[site].keepers};
    linear.rounding = rounding;
    if (start.format.affine()) continue;
    linear.clip_high.resize(linear.out(), rounding.groups(linear.in()));
    std::vector<float> power = start.power[site];
    for (std::size_t j = 0; j < linear.column_factor.size(); ++j)
      power[j] /= linear.column_factor[j] * linear.column_factor[j];
    pool.parallel_for(linear.out(), [&](int r, int) {
      static thread_local std::vector<T> row;
      row.resize(static_cast<std::size_t>(linear.in()));
      tune::unrounded_row(linear, r, std::span<T>(row));
      for (int g = 0; g < linear.clip_high.cols(); ++g) {
        const auto [begin, end] = rounding.group(g, linear.in());
        const auto first = static_cast<std::size_t>(begin),
                   count = static_cast<std::size_t>(end - begin);
        const std::span<const T> x(&row[first], count);
        float largest = smallest_range;
        for (const float w : x) largest = std::max(largest, std::fabs(w));
        const float scale =
            ClipSearch{}
                .search(start.format, x, std::span<const float>(power).subspan(first, count))
                .scale;
        const float share = scale * static_cast<float>(start.format.highest()) / largest;
        linear.clip_high(r, g) = clip_logit(share, start.format.bits);
      }
    });
  }
  refresh(block, pool);
}

// The floats that are to be rounded, with all that was learned in them; inputs and the gains of
// norms are those of `like`.
template <class T>
[[nodiscard]] BasisBlock unrounded(const tune::SimulatedBlock<T>& block, const BasisBlock& like) {
  BasisBlock made;
  made.inputs = like.inputs, made.attention_gain = like.attention_gain;
  made.mlp_gain = like.mlp_gain;
  FloatBlock<float>& w = made.weights;
  const auto into = w.linears();
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    const auto& linear = block.linears[i];
    *into[i] = {Matrix<float>(linear.out(), linear.in()), linear.bias};
    for (int r = 0; r < linear.out(); ++r) {
      tune::unrounded_row(linear, r, into[i]->weights.row(r));
      if (!linear.bias.empty()) into[i]->bias[static_cast<std::size_t>(r)] *= linear.row_scale(r);
    }
  }
  w.attention_norm = block.attention_norm.effective(), w.mlp_norm = block.mlp_norm.effective();
  w.query_norm = block.query_norm.weight, w.key_norm = block.key_norm.weight;
  return made;
}

}  // namespace detail

}  // namespace bisup
