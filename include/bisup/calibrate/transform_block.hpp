// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a block change before it is rounded, as its data say? Smoothing by the outliers of
// activations and weights, then the order of channels: slot T of a recipe beyond basis.hpp.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/block_report.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/calibrate/statistics.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/transform/permutation.hpp>
#include <bisup/transform/smoothing.hpp>
#include <bisup/transform/smoothing_scales.hpp>

namespace bisup {

// E[x^2] of each channel of the four prepared inputs.
using SitePower = std::array<std::vector<float>, 4>;

// SmoothQuant's scales (arXiv 2211.10438, equation 4), their geometric mean 1. largest: max |x| of
// each channel that the readers read.
[[nodiscard]] inline std::vector<float> smoothing_of(
    const std::vector<float>& largest, std::initializer_list<const FloatLinear<float>*> readers,
    float alpha) {
  std::vector<float> weights(largest.size());
  for (const auto* linear : readers) {
    for (int r = 0; r < linear->weights.rows(); ++r) {
      const float* row = linear->weights.ref().row_data(r);
      for (std::size_t c = 0; c < weights.size(); ++c)
        weights[c] = std::max(weights[c], std::fabs(row[c]));
    }
  }
  const std::vector<float> theta(largest.size());
  return smoothing_scales<float>(smoothing_prior<float>(largest, weights, alpha), theta, 1.0f);
}

// statistics: of the four inputs. Reports keepers and the largest magnitudes behind it.
[[nodiscard]] inline SitePower transform_block(BasisBlock& block,
                                               const std::vector<ChannelStatistics>& statistics,
                                               const Recipe& recipe, BlockReport& report,
                                               ThreadPool& pool) {
  FloatBlock<float>& w = block.weights;
  SitePower power, largest;
  for (std::size_t site = 0; site < 4; ++site) {
    power[site] = statistics[site].power(), largest[site] = statistics[site].largest;
    report.inputs[site].keepers = recipe.keepers_of(statistics[site].channels());
  }
  if (recipe.smoothing > 0) {
    const auto smooth = [&](std::size_t site,
                            std::initializer_list<const FloatLinear<float>*> readers) {
      const auto s = smoothing_of(largest[site], readers, recipe.smoothing);
      for (std::size_t i = 0; i < s.size(); ++i)
        power[site][i] /= s[i] * s[i], largest[site][i] /= s[i];
      return s;
    };
    smooth_attention_input<float>(w, smooth(0, {&w.q, &w.k, &w.v}));
    smooth_mlp_input<float>(w, smooth(2, {&w.gate, &w.up}));
  }
  if (recipe.basis == Basis::reordered) {
    const auto order = [&](std::size_t site) {
      auto permutation = Permutation::ascending<float>(power[site]);
      permutation.apply(std::span(largest[site])), permutation.apply(std::span(power[site]));
      return permutation;
    };
    const auto reorder = [&](std::size_t site, std::initializer_list<FloatLinear<float>*> readers) {
      const Permutation permutation = order(site);
      for (auto* linear : readers) absorb_input_rotation(linear->weights.ref(), permutation, pool);
      (block.inputs.*llama::named_inputs[site].input)
          .order.assign(permutation.order().begin(), permutation.order().end());
    };
    reorder(0, {&w.q, &w.k, &w.v}), reorder(1, {&w.o}), reorder(2, {&w.gate, &w.up});
    permute_intermediate(w, order(3), pool);
  }
  for (std::size_t site = 0; site < 4; ++site)
    report.inputs[site].largest_after = std::move(largest[site]);
  return power;
}

}  // namespace bisup
