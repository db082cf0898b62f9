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

// Round to nearest: the range is the group's own, times a clip (docs/formats.md).
struct Nearest {
  Clip clip = {};
  friend constexpr bool operator==(const Nearest&, const Nearest&) = default;

  [[nodiscard]] GroupParameters quantize(const Format& format, std::span<const float> x,
                                         std::span<std::uint8_t> codes) const noexcept {
    const GroupParameters p = fit(format, x, clip);
    encode_group(format, x, p, codes);
    return p;
  }
};
static_assert(Quantizer<Nearest>);

}  // namespace bisup
