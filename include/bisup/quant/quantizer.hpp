// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a quantizer? A small value that chooses scale and zero point of a group and rounds it.
// Slot Q of a recipe; quant/nearest.hpp is the plainest one.

#include <concepts>
#include <cstdint>
#include <span>

#include <bisup/core/format.hpp>
#include <bisup/pack/codes.hpp>

namespace bisup {

// quantize(format, x, codes) fills codes (as many as x) with stored codes 0 ... 2^bits - 1 and
// returns the parameters that give them meaning. The scale it returns is exact in the format's
// scale type.
template <class Q>
concept Quantizer = std::equality_comparable<Q> &&
    requires(const Q& q, const Format& format, std::span<const float> x,
             std::span<std::uint8_t> codes) {
  { q.quantize(format, x, codes) }
  noexcept->std::same_as<GroupParameters>;
};

// A quantizer that minimises a weighted error takes a weight for each element of x as well.
template <class Q>
concept WeightedQuantizer = Quantizer<Q> &&
    requires(const Q& q, const Format& format, std::span<const float> x,
             std::span<const float> error_weights, std::span<std::uint8_t> codes) {
  { q.quantize(format, x, error_weights, codes) }
  noexcept->std::same_as<GroupParameters>;
};

// Hands the weights of the group's columns, h_j = E[x_j^2] of their inputs, to a quantizer that can
// use them. Empty: equal weights.
template <Quantizer Q>
[[nodiscard]] GroupParameters quantize_group(const Q& quantizer, const Format& format,
                                             std::span<const float> x,
                                             std::span<const float> error_weights,
                                             std::span<std::uint8_t> codes) noexcept {
  if constexpr (WeightedQuantizer<Q>) return quantizer.quantize(format, x, error_weights, codes);
  return quantizer.quantize(format, x, codes);
}

// How a symmetric range c m becomes a step. plain: it lies on the highest code, c m / Q. gptq: the
// 2^b codes cover it from end to end, 2 c m / (2^b - 1), as in GPTQ and Atom; with 4 bits the same
// as a clip that is stricter by 14 / 15. Affine ranges have one way only.
enum class Grid : std::uint8_t { plain, gptq };

[[nodiscard]] constexpr Clip on_grid(Grid grid, const Format& format, Clip clip) {
  if (grid == Grid::plain || format.affine()) return clip;
  const auto q = static_cast<float>(format.highest());
  return {clip.high * (2 * q / (2 * q + 1)), clip.low};
}

// Round to nearest: the range is the group's own, times a clip (docs/formats.md).
struct Nearest {
  Clip clip = {};
  Grid grid = Grid::plain;
  friend constexpr bool operator==(const Nearest&, const Nearest&) = default;

  [[nodiscard]] GroupParameters quantize(const Format& format, std::span<const float> x,
                                         std::span<std::uint8_t> codes) const noexcept {
    const GroupParameters p = fit(format, x, on_grid(grid, format, clip));
    encode_group(format, x, p, codes);
    return p;
  }
};
static_assert(Quantizer<Nearest>);

}  // namespace bisup
