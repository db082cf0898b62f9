// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do 16-bit floats mean? Half (IEEE binary16) and BFloat16 as bits, with conversions that
// round to nearest even and keep NaN, infinity and subnormals. Vector forms live in kernel/.

#include <cstdint>

#include <bisup/core/format.hpp>
#include <bisup/core/platform.hpp>

namespace bisup {

struct Half {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(Half, Half) = default;
};

struct BFloat16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(BFloat16, BFloat16) = default;
};

// std::bit_cast, which nvcc takes in host code only.
template <class To, class From>
[[nodiscard]] BISUP_HOST_DEVICE constexpr To bits_as(From x) {
  return __builtin_bit_cast(To, x);
}

[[nodiscard]] BISUP_HOST_DEVICE constexpr float to_float(float x) {
  return x;
}

[[nodiscard]] BISUP_HOST_DEVICE constexpr float to_float(BFloat16 x) {
  return bits_as<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

[[nodiscard]] BISUP_HOST_DEVICE constexpr float to_float(Half x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 31u;
  const std::uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 31) return bits_as<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits_as<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // subnormal or zero: exact
  return sign ? -magnitude : magnitude;
}

[[nodiscard]] BISUP_HOST_DEVICE constexpr BFloat16 to_bfloat16(float x) {
  const std::uint32_t u = bits_as<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

[[nodiscard]] BISUP_HOST_DEVICE constexpr Half to_half(float x) {
  const std::uint32_t u = bits_as<std::uint32_t>(x);
  const std::uint16_t sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  const std::uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};   // NaN, quiet
  if (a >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // >= 65520: infinity
  if (a < 0x38800000u) {                                                      // below 2^-14
    // Adding 0.5 places the result's last bit at 2^-24, so the sum rounds to even by itself.
    const float shifted = bits_as<float>(a) + 0.5f;
    const std::uint32_t rounded = bits_as<std::uint32_t>(shifted) - 0x3f000000u;
    return {static_cast<std::uint16_t>(sign | rounded)};
  }
  const std::uint32_t rounded = a - 0x38000000u + 0xfffu + ((a >> 13) & 1u);
  return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
}

// `x` as the scale type stores it, read back.
[[nodiscard]] BISUP_HOST_DEVICE constexpr float rounded_to(Scale type, float x) {
  switch (type) {
    case Scale::f16: return to_float(to_half(x));
    case Scale::bf16: return to_float(to_bfloat16(x));
    case Scale::f32: break;
  }
  return x;
}

// The smallest scale that is stored exactly to full precision, and the largest that is finite.
[[nodiscard]] BISUP_HOST_DEVICE constexpr float smallest_normal(Scale type) {
  return type == Scale::f16 ? 0x1p-14f : 0x1p-126f;
}
[[nodiscard]] BISUP_HOST_DEVICE constexpr float largest_finite(Scale type) {
  return type == Scale::f16 ? 65504.0f : type == Scale::bf16 ? 0x1.fep127f : 0x1.fffffep127f;
}
// Half a unit in the last place, relative: |rounded_to(type, x) - x| <= that * x for normal x.
[[nodiscard]] constexpr double rounding_of(Scale type) {
  return type == Scale::f16 ? 0x1p-11 : type == Scale::bf16 ? 0x1p-8 : 0.0;
}

}  // namespace bisup
