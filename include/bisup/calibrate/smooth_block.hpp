// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a float block learn what to smooth? Its weights are rounded to nearest while the scales
// of tune/soft_smoothing.hpp are learned at every site where they can be merged exactly; then they
// are, and whatever rounds the block next finds an easier one. Weights cannot be smoothed any more
// once they are codes.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/simulated.hpp>
#include <bisup/calibrate/transform_block.hpp>
#include <bisup/calibrate/tuning.hpp>
#include <bisup/calibrate/tuning_data.hpp>
#include <bisup/calibrate/unrounded_block.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/transform/smoothing_scales.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/soft_smoothing.hpp>

namespace bisup {

struct SmoothedBlock {
  BasisBlock block;
  SitePower power, largest;  // of the prepared inputs: E[x^2], max |x|
};

namespace detail {

// ln of the outliers' scales at a site whose last use is that of the columns of `input`'s readers.
template <class T>
[[nodiscard]] std::vector<T> site_prior(const tune::SimulatedBlock<T>& block,
                                        const std::vector<tune::SmoothingUse<T>>& uses,
                                        tune::InputOf input, const std::vector<float>& largest) {
  const std::vector<int>& channels = uses.back().channels;
  const auto count = static_cast<std::size_t>(*std::ranges::max_element(channels) + 1);
  std::vector<T> inputs(count), weights(count);
  for (std::size_t j = 0; j < channels.size(); ++j) {
    const auto c = static_cast<std::size_t>(channels[j]);
    inputs[c] = std::max(inputs[c], static_cast<T>(largest[j]));
    for (std::size_t i = 0; i < block.linears.size(); ++i) {
      if (tune::input_of[i] != input) continue;
      const auto& w = block.linears[i].weights;
      for (int r = 0; r < w.rows(); ++r)
        weights[c] = std::max(weights[c], std::fabs(w(r, static_cast<int>(j))));
    }
  }
  constexpr T alpha = static_cast<T>(0.5);
  return smoothing_prior<T>(inputs, weights, alpha);
}

}  // namespace detail

// `block`: the start in floats, inputs and cache as they are rounded. None, if nothing that was
// learned is better on held-out crops than no smoothing.
template <class T>
[[nodiscard]] std::optional<SmoothedBlock> smooth_block(tune::SimulatedBlock<T> block,
                                                        const UnroundedStart& start,
                                                        const llama::Config& config,
                                                        const TuningStreams& streams,
                                                        const Tuning& tuning, ThreadPool& pool) {
  detail::round_weights(block, start, pool);
  tune::multiply_in(block, tuning.products);
  const TuningData<T> data(streams, tuning.length);
  const int prompt = block.cache.prompt();
  const tune::RopeAngleTable<T> angles(config, prompt, tuning.length);
  tune::BlockTuner<T> tuner(block, angles.view(), data.training, data.held_out,
                            block_tuner_options(block, tuning), pool);
  const double plain = tuner.held_out_loss();

  std::deque<tune::SoftSmoothing<T>> sites;  // whose groups point into them
  const auto add = [&](std::vector<tune::SmoothingUse<T>> uses, std::vector<T> prior, int fixed) {
    sites.emplace_back(std::move(prior), std::move(uses), T(1), fixed);
  };
  const auto add_readers = [&](std::vector<tune::SmoothingUse<T>> uses, tune::InputOf input,
                               bool keepers_fixed) {
    const InputReport& of = start.report.inputs[static_cast<std::size_t>(input)];
    auto prior = detail::site_prior(block, uses, input, of.largest_after);
    add(std::move(uses), std::move(prior), keepers_fixed ? of.keepers : 0);
  };
  auto& gradient = tuner.gradient();
  for (const tune::InputOf norm : {tune::attention_input, tune::mlp_input})
    add_readers(tune::norm_site(block, gradient, norm), norm, true);
  if (!block.inputs[tune::down_input].rotation)
    add_readers(tune::up_site(block, gradient), tune::down_input, true);
  // A stored prompt is the float model's, unsmoothed.
  if (prompt == 0) {
    if (!block.inputs[tune::output_input].rotation)
      add_readers(tune::value_site(block, gradient), tune::output_input, false);
    if (block.query_norm.weight.empty() && block.key_norm.weight.empty()) {
      const auto pairs = static_cast<std::size_t>(config.kv_heads * config.head_dim / 2);
      add(tune::key_site(block, gradient), std::vector<T>(pairs), 0);
    }
  }
  // Scales start where the outliers say or at 1, whichever is better.
  const auto begin_at = [&](T eta) {
    for (auto& site : sites) site.eta() = eta, site.spread();
    detail::round_weights(block, start, pool);
    return tuner.held_out_loss();
  };
  if (begin_at(1) >= plain) (void)begin_at(0);
  std::vector<tune::ParameterGroup<T>> groups;
  for (auto& site : sites) groups.push_back(site.group(tuning.smoothing_rate));
  (void)tuner.run_phase(std::span<const tune::ParameterGroup<T>>(groups));
  detail::round_weights(block, start, pool);  // other weights, other clips
  if (!(tuner.held_out_loss() < plain)) return std::nullopt;

  SmoothedBlock made;
  made.block = detail::unrounded(block, start.block);
  for (std::size_t site = 0; site < 4; ++site) {
    made.power[site] = start.power[site];
    made.largest[site] = start.report.inputs[site].largest_after;
    const auto reader =
        static_cast<std::size_t>(std::ranges::find(tune::input_of, site) - tune::input_of.begin());
    const auto& s = block.linears[reader].column_factor;
    for (std::size_t j = 0; j < s.size(); ++j)
      made.power[site][j] /= s[j] * s[j], made.largest[site][j] /= s[j];
  }
  return made;
}

}  // namespace bisup
