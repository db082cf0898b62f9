// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which scale does a channel get? A prior from the outliers of activations and weights, and a
// learned deviation that is bounded: ln s = eta prior + bound tanh(theta / bound). smoothing.hpp
// applies the scales.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>

namespace bisup {

// alpha ln(largest input) - (1 - alpha) ln(largest weight) of each channel, floored at 1e-5, minus
// the mean: the scales of the prior have the geometric mean 1, or all would drift.
template <class T>
[[nodiscard]] std::vector<T> smoothing_prior(std::span<const T> largest_inputs,
                                             std::span<const T> largest_weights, T alpha) {
  BISUP_EXPECTS(largest_inputs.size() == largest_weights.size());
  std::vector<T> prior(largest_inputs.size());
  T sum = 0;
  for (std::size_t i = 0; i < prior.size(); ++i) {
    const auto logarithm = [](T v) { return std::log(std::max(v, static_cast<T>(1e-5))); };
    prior[i] = alpha * logarithm(largest_inputs[i]) - (1 - alpha) * logarithm(largest_weights[i]);
    sum += prior[i];
  }
  for (T& p : prior) p -= sum / static_cast<T>(prior.size());
  return prior;
}

// Within a factor 2 of exp(eta prior), whatever theta is: the constraint is soft, yet bounded.
template <class T>
[[nodiscard]] std::vector<T> smoothing_scales(std::span<const T> prior, std::span<const T> theta,
                                              T eta) {
  BISUP_EXPECTS(prior.size() == theta.size());
  constexpr T bound = std::numbers::ln2_v<T>;
  std::vector<T> scales(prior.size());
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = std::exp(eta * prior[i] + bound * std::tanh(theta[i] / bound));
  }
  return scales;
}

}  // namespace bisup
