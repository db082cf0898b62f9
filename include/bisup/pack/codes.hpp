// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which code for which number? The rounding of one group, defined once: weights, activations,
// caches and the float simulation all use these functions, so they agree to the bit
// (docs/formats.md).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include <bisup/core/float16.hpp>
#include <bisup/core/format.hpp>

namespace bisup {

// value = scale * (code - zero). A symmetric group has zero = -lowest().
struct GroupParameters {
  float scale = 1;
  int zero = 0;
  friend constexpr bool operator==(const GroupParameters&, const GroupParameters&) = default;
};

// The smallest range a group is given, so that a group of zeros has a scale (docs/formats.md).
inline constexpr float smallest_range = 1e-5f;

// How far a group is clipped: the share of its extremes that the codes cover, each in (0, 1].
struct Clip {
  float high = 1, low = 1;
  friend constexpr bool operator==(const Clip&, const Clip&) = default;
};

// Scale as stored: rounded to its type, not below the smallest normal number. An overflow comes
// back as infinity, which the callers that can meet one refuse.
[[nodiscard]] inline float stored_scale(const Format& format, float scale) {
  return std::max(rounded_to(format.scale, scale), smallest_normal(format.scale));
}

// Scale and zero point of a group with these extremes. Symmetric: Delta = c max|v| / Q. Affine:
// Delta = (hi - lo) / (2^b - 1) with 0 always inside the range, z = round(-lo / Delta).
[[nodiscard]] inline GroupParameters parameters_for(const Format& format, float low, float high,
                                                    Clip clip = {}) {
  if (!format.affine()) {
    const float range = std::max(std::max(high, -low) * clip.high, smallest_range);
    return {stored_scale(format, range / static_cast<float>(format.highest())), -format.lowest()};
  }
  const float hi = std::max(high * clip.high, 0.0f), lo = std::min(low * clip.low, 0.0f);
  const float levels = static_cast<float>(format.highest());
  const float scale = stored_scale(format, std::max(hi - lo, smallest_range) / levels);
  // Rounding the scale to its stored type can push -lo / scale just past the last code.
  const float zero = std::min(std::nearbyint(-lo / scale), levels);
  return {scale, static_cast<int>(zero)};
}

[[nodiscard]] inline GroupParameters fit(const Format& format, std::span<const float> x,
                                         Clip clip = {}) {
  float low = 0, high = 0;
  for (const float v : x) low = std::min(low, v), high = std::max(high, v);
  return parameters_for(format, low, high, clip);
}

// The code of one number. Multiplies by the reciprocal, as every kernel does: against a division
// the quotient may differ by one unit in the last place, which moves a code only at a tie.
[[nodiscard]] inline int encode(const Format& format, float x, float inverse_scale, int zero) {
  const float level = std::nearbyint(x * inverse_scale);
  const float low =
      static_cast<float>((format.affine() ? 0 : format.smallest_used() - format.lowest()) - zero);
  const float high = static_cast<float>((1 << format.bits) - 1 - zero);
  // low comes first so that a NaN, which compares false, becomes low rather than undefined.
  return static_cast<int>(std::min(std::max(low, level), high)) + zero;
}

[[nodiscard]] inline float decode(int code, const GroupParameters& p) {
  return p.scale * static_cast<float>(code - p.zero);
}

// Rounds a group with given parameters.
inline void encode_group(const Format& format, std::span<const float> x, const GroupParameters& p,
                         std::span<std::uint8_t> codes) {
  const float inverse = 1.0f / p.scale;
  for (std::size_t i = 0; i < x.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(encode(format, x[i], inverse, p.zero));
  }
}

// The largest |x - decode(encode(x))| that the format promises for x inside the clipped range: half
// a step, the rounding of the stored scale (which moves the last level), and the rounding of x /
// scale.
[[nodiscard]] inline double rounding_bound(const Format& format, const GroupParameters& p) {
  const double levels = format.highest() + 1.0;
  return p.scale * (0.5 + levels * (rounding_of(format.scale) + 0x1p-22));
}

}  // namespace bisup
