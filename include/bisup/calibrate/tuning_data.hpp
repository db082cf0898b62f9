// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a block learn from? The first tokens of each crop: of the quantized stream before the
// block, and of the float stream behind it.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <bisup/calibrate/stream.hpp>
#include <bisup/calibrate/tuning.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/simulated_block.hpp>

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

// A text's first token, whose outliers would be all of the loss, is skipped unless it is stored.
template <class T>
[[nodiscard]] tune::BlockTunerOptions block_tuner_options(const tune::SimulatedBlock<T>& block,
                                                          const Tuning& tuning,
                                                          std::uint64_t seed = 0) {
  tune::BlockTunerOptions options;
  options.phase.steps = tuning.block_steps, options.seed = seed;
  options.loss.skipped.first = block.cache.prompt() == 0;
  return options;
}

}  // namespace bisup
