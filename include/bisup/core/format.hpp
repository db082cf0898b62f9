// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a format? Bits, group, zero point and scale type of packed weights, described once as a
// value and carried everywhere as a named type. Next: pack/layout.hpp says where each bit lives.

#include <concepts>
#include <cstdint>

#include <bisup/core/platform.hpp>

namespace bisup {

enum class Zero : std::uint8_t { symmetric, affine };
enum class Scale : std::uint8_t { f32, f16, bf16 };

[[nodiscard]] BISUP_HOST_DEVICE constexpr int bytes_of(Scale scale) {
  return scale == Scale::f32 ? 4 : 2;
}

struct Format {
  int bits = 4;
  int group = 128;  // codes that share a scale; 0: one group a row
  Zero zero = Zero::symmetric;
  Scale scale = Scale::f16;

  friend constexpr bool operator==(const Format&, const Format&) = default;

  [[nodiscard]] BISUP_HOST_DEVICE constexpr bool valid() const {
    return bits >= 1 && bits <= 8 && group >= 0 && group % 32 == 0;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr bool affine() const { return zero == Zero::affine; }

  // Codes are stored unsigned, 0 ... 2^bits - 1. A symmetric code u means the integer u + lowest();
  // an affine code means u - zero point.
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int lowest() const {
    return affine() ? 0 : -(1 << (bits - 1));
  }
  // The largest integer of a symmetric code; also the divisor of its scale (docs/formats.md: Q_b).
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int highest() const {
    return affine() ? (1 << bits) - 1 : (1 << (bits - 1)) - 1;
  }
  // The smallest integer the quantizer emits. Symmetric 8-bit codes leave out -128, so that the
  // product of two of them stays inside what AVX2's 16-bit step can hold.
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int smallest_used() const {
    return !affine() && bits == 8 ? -127 : lowest();
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int code_bytes() const { return group * bits / 8; }

  [[nodiscard]] constexpr int groups_per_row(int cols) const {
    return group == 0 ? 1 : (cols + group - 1) / group;
  }
  // Of a row of whole groups; a row's own figure, padding included, is PackedTensor::bytes().
  [[nodiscard]] constexpr double bits_per_weight() const {
    return group == 0 ? bits : bits + (8.0 * bytes_of(scale) + (affine() ? 8 : 0)) / group;
  }
};

// The same facts as a type. Formats are named types because nvcc cannot spell a class-type template
// argument in a kernel's signature (docs/decisions/001).
template <Format F>
  requires(F.valid())
struct FormatOf {
  static constexpr Format value = F;
  static constexpr int bits = F.bits;
  static constexpr int group = F.group;
  static constexpr int code_bytes = F.code_bytes();
  static constexpr int lowest = F.lowest();
};

template <class T>
concept AnyFormat = requires {
  { T::value } -> std::convertible_to<Format>;
}
&&Format(T::value).valid();

struct int8_channel : FormatOf<Format{.bits = 8, .group = 0}> {};
struct int8_g32 : FormatOf<Format{.bits = 8, .group = 32}> {};
struct int8_g64 : FormatOf<Format{.bits = 8, .group = 64}> {};
struct int8_g128 : FormatOf<Format{.bits = 8}> {};
struct int6_g128 : FormatOf<Format{.bits = 6}> {};
struct int5_g128 : FormatOf<Format{.bits = 5}> {};
struct int4_g32 : FormatOf<Format{.group = 32}> {};
struct int4_g64 : FormatOf<Format{.group = 64}> {};
struct int4_g128 : FormatOf<Format{}> {};
struct uint4_g64 : FormatOf<Format{.group = 64, .zero = Zero::affine}> {};
struct uint4_g128 : FormatOf<Format{.zero = Zero::affine}> {};
struct int3_g64 : FormatOf<Format{.bits = 3, .group = 64}> {};
struct int3_g128 : FormatOf<Format{.bits = 3}> {};
struct int2_g64 : FormatOf<Format{.bits = 2, .group = 64}> {};
struct int2_g128 : FormatOf<Format{.bits = 2}> {};

static_assert(int4_g128::value.bits_per_weight() == 4.125);

}  // namespace bisup
