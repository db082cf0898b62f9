// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is one block tuned? Its output on the quantized stream is pulled towards the float block's
// output on the float stream, so it also undoes the error that reached it. Phases learn groups of
// parameters one set after another; each keeps the best on held-out data.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/loss.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/phase.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <bisup/tune/segment_walk.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup::tune {

// One crop: what enters the quantized block, what should leave it, and (for the auxiliary loss)
// what the float block makes of the same input. All [tokens, hidden]; the caller's.
template <class T>
struct TuningSample {
  MatrixRef<const T> input, target, augmented = {};
};

struct BlockLoss {
  double augmented = 0;  // weight of the squared error against `augmented`
  double moments = 0;    // weight of the distance of per-channel moments
  SkippedTokens skipped = {};
};

struct BlockTunerOptions {
  PhaseOptions phase = {};
  BlockLoss loss = {};
  int batch = 1;  // samples a step
  std::uint64_t seed = 0;
};

template <class T>
class BlockTuner {
 public:
  // `angles` are those of the longest sample; samples start at the same position. The block is
  // changed in place.
  BlockTuner(SimulatedBlock<T>& block, const RopeAngles<T>& angles,
             std::span<const TuningSample<T>> training, std::span<const TuningSample<T>> held_out,
             const BlockTunerOptions& options, ThreadPool& pool)
      : block_(block),
        angles_(angles),
        training_(training),
        held_out_(held_out),
        options_(options),
        pool_(pool) {
    BISUP_EXPECTS(!training.empty() && !held_out.empty() && options.batch > 0);
    gradient_.clear(block);
    refresh(block, pool);
    for (const auto& sample : training) {
      const auto counted = counted_tokens<T>(sample.target, options.loss.skipped);
      mean_power_ += power<T>(sample.target, counted) / static_cast<double>(training.size());
    }
  }

  // Groups are made of the block and this.
  [[nodiscard]] BlockGradient<T>& gradient() noexcept { return gradient_; }

  // Held-out loss with the block as it is: squared error over all samples by their power, and the
  // other terms' means.
  [[nodiscard]] double held_out_loss() {
    double error = 0, target_power = 0, rest = 0;
    for (const auto& sample : held_out_) {
      run(sample);
      const auto counted = counted_tokens<T>(sample.target, options_.loss.skipped);
      error += squared_error<T>(y_.ref(), sample.target, counted, 0, {}, pool_);
      target_power += power<T>(sample.target, counted);
      rest += other_terms(sample, counted, 0, {}) / static_cast<double>(held_out_.size());
    }
    return error / std::max(target_power, tiny) + rest;
  }

  // Learns the groups' parameters, which end as the best on held-out data, the start included.
  PhaseReport run_phase(std::span<const ParameterGroup<T>> groups,
                        std::function<bool(int, int)> progress = {}) {
    const Wanted wanted = wanted_by(groups);
    PhaseWork work;
    work.learn = [&](int step) { return learn(step, wanted); };
    work.held_out = [&] { return held_out_loss(); };
    work.changed = [&](bool weights) {
      if (weights) refresh(block_, pool_);
    };
    work.progress = std::move(progress);
    const PhaseReport report = tune::run_phase<T>(groups, options_.phase, work);
    samples_seen_ += static_cast<int>(report.training.size()) * options_.batch;
    return report;
  }

 private:
  static constexpr double tiny = 1e-30;  // so that a target of zeros is no division by zero

  void run(const TuningSample<T>& sample) {
    y_.resize(sample.input.rows(), sample.input.cols());
    forward<T>(block_, angles_.first(sample.input.rows()), sample.input, activations_, y_.ref(),
               pool_);
  }
  double other_terms(const TuningSample<T>& sample, std::span<const char> counted, double factor,
                     MatrixRef<T> g) {
    double sum = 0;
    if (options_.loss.augmented > 0) {
      const double weight =
          options_.loss.augmented / std::max(power<T>(sample.augmented, counted), tiny);
      sum +=
          weight * squared_error<T>(y_.ref(), sample.augmented, counted, factor * weight, g, pool_);
    }
    if (options_.loss.moments > 0) {
      const double weight = options_.loss.moments;
      sum += weight * moment_distance<T>(y_.ref(), sample.target, counted, factor * weight, g);
    }
    return sum;
  }
  double learn(int step, const Wanted& wanted) {
    gradient_.clear(block_);
    double loss = 0;
    for (int i = 0; i < options_.batch; ++i) {
      const int n = samples_seen_ + step * options_.batch + i;
      const int which = shuffled(n, static_cast<int>(training_.size()), options_.seed);
      const TuningSample<T>& sample = training_[static_cast<std::size_t>(which)];
      run(sample);
      g_.resize(y_.rows(), y_.cols());
      for (int t = 0; t < g_.rows(); ++t) std::fill(g_.row(t).begin(), g_.row(t).end(), T(0));
      const auto counted = counted_tokens<T>(sample.target, options_.loss.skipped);
      const double share = 1.0 / options_.batch, weight = share / std::max(mean_power_, tiny);
      loss += weight * squared_error<T>(y_.ref(), sample.target, counted, weight, g_.ref(), pool_);
      loss += share * other_terms(sample, counted, share, g_.ref());
      backward<T>(block_, angles_.first(g_.rows()), activations_, g_.ref(), wanted, gradient_,
                  scratch_, pool_);
    }
    return loss;
  }

  SimulatedBlock<T>& block_;
  RopeAngles<T> angles_;
  std::span<const TuningSample<T>> training_, held_out_;
  BlockTunerOptions options_;
  ThreadPool& pool_;
  double mean_power_ = 0;
  int samples_seen_ = 0;  // in earlier phases
  BlockGradient<T> gradient_;
  BlockActivations<T> activations_;
  BlockScratch<T> scratch_;
  Matrix<T> y_, g_;
};

}  // namespace bisup::tune
