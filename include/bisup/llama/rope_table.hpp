// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// By which angles does a position rotate queries and keys? Tables of cosines and sines for every
// position that a session can reach, with the context extensions of published models.

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/ops/rope.hpp>

namespace bisup::llama {

namespace detail {

// Llama 3.1: wavelengths above low are divided by the factor, below high kept, between
// interpolated.
inline double llama3_frequency(const RopeScaling& s, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double original = s.original_max_positions;
  if (wavelength < original / s.high_frequency_factor) return frequency;
  if (wavelength > original / s.low_frequency_factor) return frequency / s.factor;
  const double smooth = (original / wavelength - s.low_frequency_factor) /
                        (s.high_frequency_factor - s.low_frequency_factor);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

// YaRN (arXiv 2309.00071, "NTK-by-parts"): the pair that turns `rotations` times over the original
// context.
inline double yarn_pair(const Config& c, double rotations) {
  return c.head_dim *
         std::log(c.rope_scaling.original_max_positions / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(c.rope_theta));
}

inline double yarn_frequency(const Config& c, double frequency, int pair) {
  const RopeScaling& s = c.rope_scaling;
  double low = std::max(std::floor(yarn_pair(c, s.beta_fast)), 0.0);
  double high = std::min(std::ceil(yarn_pair(c, s.beta_slow)), c.head_dim - 1.0);
  if (low == high) high += 0.001;
  const double ramp = std::min(std::max((pair - low) / (high - low), 0.0), 1.0);
  return frequency / s.factor * ramp + frequency * (1 - ramp);
}

}  // namespace detail

// Angle per position of pair i, i < head_dim / 2: dimensions i and i + head_dim / 2 turn together.
[[nodiscard]] inline std::vector<double> rope_frequencies(const Config& config) {
  std::vector<double> frequencies;
  for (int i = 0; i < config.head_dim / 2; ++i) {
    double f = std::pow(config.rope_theta, -2.0 * i / config.head_dim);
    switch (config.rope_scaling.kind) {
      case RopeScalingKind::none: break;
      case RopeScalingKind::linear: f /= config.rope_scaling.factor; break;
      case RopeScalingKind::llama3: f = detail::llama3_frequency(config.rope_scaling, f); break;
      case RopeScalingKind::yarn: f = detail::yarn_frequency(config, f, i); break;
    }
    if (!config.rope_factors.empty()) f /= config.rope_factors[static_cast<std::size_t>(i)];
    frequencies.push_back(f);
  }
  return frequencies;
}

// What cosines and sines are multiplied by: 1 but for YaRN.
[[nodiscard]] inline double rope_magnitude(const Config& config) {
  const RopeScaling& s = config.rope_scaling;
  if (s.kind != RopeScalingKind::yarn) return 1;
  return s.attention_factor.value_or(s.factor <= 1 ? 1.0 : 0.1 * std::log(s.factor) + 1.0);
}

class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(const Config& config, int positions)
      : cosines_(positions, config.head_dim / 2), sines_(positions, config.head_dim / 2) {
    const auto frequencies = rope_frequencies(config);
    const double magnitude = rope_magnitude(config);
    for (int p = 0; p < positions; ++p) {
      for (int i = 0; i < config.head_dim / 2; ++i) {
        const double angle = p * frequencies[static_cast<std::size_t>(i)];
        cosines_(p, i) = static_cast<float>(magnitude * std::cos(angle));
        sines_(p, i) = static_cast<float>(magnitude * std::sin(angle));
      }
    }
  }

  [[nodiscard]] int positions() const noexcept { return cosines_.rows(); }
  [[nodiscard]] int head_dim() const noexcept { return 2 * cosines_.cols(); }

  // x: [tokens, heads * head_dim], in place, at positions first_position, first_position + 1, ...
  void rotate(MatrixRef<float> x, int first_position, ThreadPool& pool) const {
    BISUP_EXPECTS(first_position >= 0 && first_position + x.rows() <= positions());
    rope(x, cosines_.ref().rows(first_position, x.rows()),
         sines_.ref().rows(first_position, x.rows()), pool);
  }

 private:
  Matrix<float> cosines_, sines_;  // [positions, head_dim / 2]
};

}  // namespace bisup::llama
