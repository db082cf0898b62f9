// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a rounded block learn to undo the error that reached it? Branches start from the error
// of its weights; branches, clips, biases and norm gains are then tuned so that its output on the
// quantized stream comes near the float block's on the float stream (BiSup's vertical direction).

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/simulated.hpp>
#include <bisup/calibrate/stream.hpp>
#include <bisup/calibrate/tuning.hpp>
#include <bisup/compensate/low_rank.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/biases.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <bisup/tune/weight_scales.hpp>

namespace bisup {

namespace detail {

// The first tokens of samples [first, last).
[[nodiscard]] inline std::vector<Matrix<float>> beginnings(const Stream& stream, int first,
                                                           int last, int length) {
  std::vector<Matrix<float>> parts;
  Matrix<float> x;
  for (int i = first; i < last; ++i) {
    stream.read(i, x);
    Matrix<float> part(std::min(length, x.rows()), x.cols());
    for (int t = 0; t < part.rows(); ++t)
      std::copy_n(x.row(t).data(), x.cols(), part.row(t).data());
    parts.push_back(std::move(part));
  }
  return parts;
}

template <class T>
[[nodiscard]] std::vector<tune::TuningSample<T>> tuning_samples(
    const std::vector<Matrix<T>>& inputs, const std::vector<Matrix<T>>& targets) {
  std::vector<tune::TuningSample<T>> samples;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    samples.push_back({inputs[i].ref(), targets[i].ref()});
  return samples;
}

}  // namespace detail

// Branches that take most of the weights' error off, weighted by the power of what they read.
// floats: the block's weights in its basis; power: of each of the four inputs' channels, as
// prepared. Errors: not_finite.
template <class T>
[[nodiscard]] Result<void> start_branches(tune::SimulatedBlock<T>& block,
                                          const FloatBlock<T>& floats,
                                          std::span<const std::vector<T>> power,
                                          const Tuning& tuning, ThreadPool& pool) {
  const FloatLinear<T>* const from[] = {&floats.q,    &floats.k,  &floats.v,   &floats.o,
                                        &floats.gate, &floats.up, &floats.down};
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    auto& linear = block.linears[i];
    Matrix<T> error = from[i]->weights.clone();
    for (int r = 0; r < error.rows(); ++r) {
      for (int c = 0; c < error.cols(); ++c) error(r, c) -= linear.weights(r, c);
    }
    auto branch = weighted_svd(
        error.ref(), power[static_cast<std::size_t>(tune::input_of[i])],
        {.rank = tuning.rank_of(error.cols(), error.rows()), .energy = tuning.branch_energy}, pool);
    if (!branch) return branch.error();
    linear.a = std::move(branch->a), linear.b = std::move(branch->b);
  }
  return {};
}

struct TuningStreams {
  const Stream& inputs;   // the quantized stream before the block
  const Stream& targets;  // the float stream behind it
  int crops;              // of which so many are learned from; the others are held out
};

// The first tokens of all crops, in memory. Of the held-out ones four are enough to tell one step's
// parameters from another's; whether the block as it will run is kept is judged on all.
template <class T>
struct TuningData {
  std::vector<Matrix<T>> x, z, held_x, held_z;
  std::vector<tune::TuningSample<T>> training, held_out;

  TuningData(const TuningStreams& s, int length)
      : x(detail::beginnings(s.inputs, 0, s.crops, length)),
        z(detail::beginnings(s.targets, 0, s.crops, length)),
        held_x(detail::beginnings(s.inputs, s.crops, last_held_out(s), length)),
        held_z(detail::beginnings(s.targets, s.crops, last_held_out(s), length)),
        training(detail::tuning_samples(x, z)),
        held_out(detail::tuning_samples(held_x, held_z)) {}

 private:
  [[nodiscard]] static int last_held_out(const TuningStreams& s) {
    return std::min(s.crops + 4, s.inputs.samples());
  }
};

// Tunes in place. The best on held-out crops stays, the start included.
template <class T>
tune::PhaseReport tune_block(tune::SimulatedBlock<T>& block, const llama::Config& config,
                             const TuningStreams& streams, const Tuning& tuning, std::uint64_t seed,
                             ThreadPool& pool) {
  const TuningData<T> data(streams, tuning.length);
  const int prompt = block.cache.prompt();
  const tune::RopeAngleTable<T> angles(config, prompt, tuning.length);
  tune::BlockTunerOptions options;
  options.phase.steps = tuning.block_steps, options.seed = seed;
  options.loss.skipped.first = prompt == 0;
  tune::multiply_in(block, tuning.products);
  if (tuning.scales) tune::begin_scales(block);
  if (tuning.biases) tune::begin_biases(block);
  tune::BlockTuner<T> tuner(block, angles.view(), data.training, data.held_out, options, pool);
  std::vector<tune::ParameterGroup<T>> groups;
  if (tuning.rank > 0)
    groups.push_back(tune::low_rank(block, tuner.gradient(), tuning.branch_rate));
  if (tuning.clips) {
    groups.push_back(tune::activation_clips(block, tuner.gradient(), tuning.clip_rate));
    groups.push_back(tune::cache_clips(block, tuner.gradient(), tuning.clip_rate));
  }
  if (tuning.scales)
    groups.push_back(tune::weight_scales(block, tuner.gradient(), tuning.scale_rate, pool));
  if (tuning.biases) groups.push_back(tune::biases(block, tuner.gradient(), tuning.bias_rate));
  if (tuning.norm_gains)
    groups.push_back(tune::norm_gains(block, tuner.gradient(), tuning.gain_rate));
  return tuner.run_phase(std::span<const tune::ParameterGroup<T>>(groups));
}

}  // namespace bisup
