// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where do branches begin? At what costs most of the error of the weights, or, where there are
// enough tokens, at the regression of all that rounding did to the outputs, to weights and inputs.

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/calibrate/statistics.hpp>
#include <bisup/calibrate/tuning.hpp>
#include <bisup/compensate/low_rank.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/transform/float_block.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup {

// An input before it is rounded, x, and after, x^: E[x x^T] and E[x^ x^T], [in, in].
struct RoundedMoments {
  Matrix<float> exact, cross;
};

// Tokens for each channel of an input: what reduced_rank_regression() needs.
inline constexpr long regression_tokens = 16;

// The moments of the four inputs of a block that is refreshed; whole samples are read, no more than
// it takes to see `tokens`.
template <class T>
[[nodiscard]] std::array<RoundedMoments, tune::inputs> rounded_moments(
    const tune::SimulatedBlock<T>& block, const tune::RopeAngles<T>& angles,
    std::span<const tune::TuningSample<T>> samples, long tokens, ThreadPool& pool) {
  std::array<RoundedMoments, tune::inputs> moments;
  std::vector<SecondMoments> exact;
  tune::BlockActivations<T> a;
  long read = 0;
  for (const auto& sample : samples) {
    if (read >= tokens) break;
    tune::forward<T>(block, angles.first(sample.input.rows()), sample.input, a, {}, pool);
    for (std::size_t i = 0; i < moments.size(); ++i) {
      const auto& [before, after] = std::pair(a.inputs[i].before, a.inputs[i].values);
      const int width = before.cols();
      if (read == 0) exact.emplace_back(width), moments[i].cross = Matrix<float>(width, width);
      exact[i].add(before, pool);
      transposed_multiply(after, before, moments[i].cross.ref(),
                          read == 0 ? Into::replace : Into::add, pool, block.linears[0].products);
    }
    read += sample.input.rows();
  }
  for (std::size_t i = 0; i < exact.size(); ++i) {
    moments[i].exact = exact[i].mean();
    for (int r = 0; r < moments[i].cross.rows(); ++r) {
      for (float& v : moments[i].cross.row(r)) v /= static_cast<float>(read);
    }
  }
  return moments;
}

// Branches of a block whose weights are rounded; `floats`: as they were, in the block's basis;
// power: E[x^2] of the channels of each of the four inputs, as prepared. Errors: not_finite.
template <class T>
[[nodiscard]] Result<void> start_branches(tune::SimulatedBlock<T>& block,
                                          const FloatBlock<T>& floats,
                                          std::span<const std::vector<T>> power,
                                          const tune::RopeAngles<T>& angles,
                                          std::span<const tune::TuningSample<T>> samples,
                                          const Tuning& tuning, ThreadPool& pool) {
  const auto from = floats.linears();
  long tokens = 0, needed = 0;
  for (const auto& sample : samples) tokens += sample.input.rows();
  const auto regresses = [&](const tune::SimulatedLinear<T>& linear) {
    return tuning.regression && tokens >= regression_tokens * linear.in();
  };
  for (const auto& linear : block.linears) {
    if (regresses(linear)) needed = std::max(needed, regression_tokens * linear.in());
  }
  std::array<RoundedMoments, tune::inputs> moments;
  refresh(block, pool);
  if (needed > 0) moments = rounded_moments<T>(block, angles, samples, needed, pool);
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    auto& linear = block.linears[i];
    const auto input = static_cast<std::size_t>(tune::input_of[i]);
    const MatrixRef<const float> w = from[i]->weights.ref(), rounded = linear.effective();
    const LowRankOptions options = {.rank = tuning.rank_of(linear.in(), linear.out()),
                                    .energy = tuning.branch_energy};
    Matrix<float> error(linear.out(), linear.in()), part(linear.out(), linear.in());
    const auto less = [&error](MatrixRef<const float> what) {
      for (int r = 0; r < error.rows(); ++r) {
        for (int c = 0; c < error.cols(); ++c) error(r, c) -= what(r, c);
      }
    };
    std::optional<LowRank> branch;
    if (regresses(linear)) {
      // Of r = W x - W^ x^: E[r x^T] = W E[x x^T] - W^ E[x^ x^T].
      multiply(w, moments[input].exact.ref(), error.ref(), Into::replace, pool);
      multiply(rounded, moments[input].cross.ref(), part.ref(), Into::replace, pool);
      less(part.ref());
      auto found = reduced_rank_regression(moments[input].exact.ref(), error.ref(), options, pool);
      if (!found && found.error().code != Errc::not_definite) return found.error();
      if (found) branch = std::move(found).value();
    }
    if (!branch) {
      for (int r = 0; r < error.rows(); ++r)
        std::copy_n(w.row_data(r), w.cols(), error.row(r).data());
      less(rounded);
      auto found = weighted_svd(error.ref(), power[input], options, pool);
      if (!found) return found.error();
      branch = std::move(found).value();
    }
    linear.a = std::move(branch->a), linear.b = std::move(branch->b);
  }
  return {};
}

}  // namespace bisup
