// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What may branches do that cost no bits? They become part of the weights before these are rounded,
// W^ = Quant(W + B A): learned while the weights are rounded to nearest, straight through, towards
// the float block's output. Less than half a step of the grid only moves what stood near the middle
// between two codes, so they give up the exactness of branches beside.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/tuning.hpp>
#include <bisup/calibrate/tuning_data.hpp>
#include <bisup/calibrate/unrounded_block.hpp>
#include <bisup/compensate/low_rank.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/rope_angles.hpp>

namespace bisup {

// `block`: the start in floats, inputs and cache as they are rounded. None, if nothing that was
// learned is better on held-out crops than no branches. Errors: not_finite.
template <class T>
[[nodiscard]] Result<std::optional<BasisBlock>> merge_branches(
    tune::SimulatedBlock<T> block, const UnroundedStart& start, const llama::Config& config,
    const TuningStreams& streams, const Tuning& tuning, ThreadPool& pool) {
  detail::round_weights(block, start, pool);
  tune::multiply_in(block, tuning.products);
  const TuningData<T> data(streams, tuning.length);
  const tune::RopeAngleTable<T> angles(config, block.cache.prompt(), tuning.length);
  // A reads where the rounding costs most, and B = 0: the start is the block without branches.
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    auto& linear = block.linears[i];
    Matrix<float> error = linear.weights.clone();
    for (int r = 0; r < error.rows(); ++r) {
      for (int c = 0; c < error.cols(); ++c) error(r, c) -= linear.derived(r, c);
    }
    auto branch =
        weighted_svd(error.ref(), start.power[static_cast<std::size_t>(tune::input_of[i])],
                     {.rank = std::min({tuning.merged_rank, linear.in(), linear.out()})}, pool);
    if (!branch) return branch.error();
    linear.a = std::move(branch->a), linear.merged = true;
    linear.b = Matrix<T>(linear.out(), linear.a.rows());
    for (int r = 0; r < linear.b.rows(); ++r) std::ranges::fill(linear.b.row(r), T(0));
  }
  tune::BlockTuner<T> tuner(block, angles.view(), data.training, data.held_out,
                            block_tuner_options(block, tuning), pool);
  const auto group = tune::low_rank(block, tuner.gradient(), tuning.branch_rate);
  const auto phase = tuner.run_phase(std::span<const tune::ParameterGroup<T>>(&group, 1));
  detail::round_weights(block, start, pool);  // other weights, other clips
  if (!(tuner.held_out_loss() < phase.before)) return std::optional<BasisBlock>();
  return std::optional(detail::unrounded(block, start.block));
}

}  // namespace bisup
