// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a candidate scale cost a group? The specification of kernel/rounding_error.hpp, written
// to be obviously right.

#include <cmath>

#include <bisup/kernel/target.hpp>

namespace bisup {

// The numbers a group can be rounded to: scale * q for integers q in [low, high], 0 among them.
struct CodeLevels {
  float scale = 1;
  float low = 0, high = 0;
};

// sum over i of weights[i] |x_i - scale q_i|^p with q_i = round(x_i / scale) held in [low, high];
// null weights are ones. Once the sum so far exceeds `limit` it may be returned as it stands.
using RoundingErrorFn = float (*)(const float* x, const float* weights, int count,
                                  CodeLevels levels, float limit) noexcept;

struct RoundingErrorKernels {
  RoundingErrorFn squares;  // p = 2
  RoundingErrorFn power;    // p = 2.4
};

// Newton's start for a^(-1/5) from the bits of a: at most 3.2 % off.
inline constexpr float inverse_fifth_root_bits = 0x1.30aeb2p30f;

namespace scalar {

template <bool Squares>
BISUP_SCALAR inline float rounding_error(const float* x, const float* weights, int count,
                                         CodeLevels levels, float /*limit*/) noexcept {
  const float inverse = 1.0f / levels.scale;
  float sum = 0;
  for (int i = 0; i < count; ++i) {
    float level = std::nearbyint(x[i] * inverse);
    level = level < levels.low ? levels.low : level > levels.high ? levels.high : level;
    const float error = std::fabs(x[i] - levels.scale * level);
    const float loss = Squares ? error * error : std::pow(error, 2.4f);
    sum += weights == nullptr ? loss : loss * weights[i];
  }
  return sum;
}

}  // namespace scalar
}  // namespace bisup
