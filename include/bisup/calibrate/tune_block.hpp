// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a rounded block learn to undo the error that reached it? Branches, clips, biases and
// norm gains are tuned so that its output on the quantized stream comes near the float block's on
// the float stream (BiSup's vertical direction).

#include <cstdint>
#include <span>
#include <vector>

#include <bisup/calibrate/tuning.hpp>
#include <bisup/calibrate/tuning_data.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/biases.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <bisup/tune/weight_scales.hpp>

namespace bisup {

// Tunes in place. The best on held-out crops stays, the start included.
template <class T>
tune::PhaseReport tune_block(tune::SimulatedBlock<T>& block, const tune::RopeAngles<T>& angles,
                             const TuningData<T>& data, const Tuning& tuning, std::uint64_t seed,
                             ThreadPool& pool) {
  tune::multiply_in(block, tuning.products);
  if (tuning.scales) tune::begin_scales(block);
  if (tuning.biases) tune::begin_biases(block);
  tune::BlockTuner<T> tuner(block, angles, data.training, data.held_out,
                            block_tuner_options(block, tuning, seed), pool);
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
