// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/float16.hpp>
#include <bisup/core/random.hpp>

#include <bit>
#include <cmath>
#include <limits>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

// IEEE 754 binary16 from its definition, in double: (-1)^s 2^(e-15) (1 + m/1024).
double meaning(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  if (exponent == 31) magnitude = mantissa ? std::nan("") : HUGE_VAL;
  return bits & 0x8000 ? -magnitude : magnitude;
}

std::uint16_t half_bits(float x) {
  return to_half(x).bits;
}

TEST_CASE("every half reads as IEEE 754 says and survives the way back") {
  int wrong_value = 0, wrong_bits = 0;
  for (int i = 0; i < 65536; ++i) {
    const Half half{static_cast<std::uint16_t>(i)};
    const double wanted = meaning(half.bits);
    const float got = to_float(half);
    if (std::isnan(wanted)) {
      wrong_value += !std::isnan(got);
      wrong_bits += !std::isnan(to_float(to_half(got)));
      wrong_bits += std::signbit(got) != std::signbit(to_float(to_half(got)));
    } else {
      wrong_value += got != wanted || std::signbit(got) != std::signbit(wanted);
      wrong_bits += to_half(got) != half;
    }
  }
  CHECK(wrong_value == 0);
  CHECK(wrong_bits == 0);
}

TEST_CASE("to_half rounds to nearest, ties to even, at every boundary between two halves") {
  int wrong = 0;
  for (std::uint16_t low = 0; low < 0x7bff; ++low) {  // all finite magnitudes but the largest
    const auto high = static_cast<std::uint16_t>(low + 1);
    const auto middle = static_cast<float>((meaning(low) + meaning(high)) / 2);  // 12 bits: exact
    const std::uint16_t even = low & 1 ? high : low;
    for (const int sign : {0, 0x8000}) {
      const float side = sign ? -1.0f : 1.0f;
      wrong += half_bits(side * middle) != (even | sign);
      wrong += half_bits(side * std::nextafter(middle, 0.0f)) != (low | sign);
      wrong += half_bits(side * std::nextafter(middle, 1e9f)) != (high | sign);
    }
  }
  CHECK(wrong == 0);
  CHECK(half_bits(65519.996f) == 0x7bff);
  CHECK(half_bits(65520.0f) == 0x7c00);
  CHECK(half_bits(3e38f) == 0x7c00);
  CHECK(half_bits(-HUGE_VALF) == 0xfc00);
  CHECK(half_bits(std::numeric_limits<float>::denorm_min()) == 0);
}

TEST_CASE("bfloat16 is the upper half of a float, rounded to nearest even") {
  int wrong = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const float exact = std::bit_cast<float>(i << 16);
    if (std::isnan(exact)) {
      wrong += !std::isnan(to_float(to_bfloat16(exact)));
      continue;
    }
    wrong +=
        std::bit_cast<std::uint32_t>(to_float(BFloat16{static_cast<std::uint16_t>(i)})) != i << 16;
    wrong += to_bfloat16(exact).bits != i;
    if (std::isinf(exact)) continue;
    const std::uint32_t middle = i << 16 | 0x8000u, even = i + (i & 1);
    wrong += to_bfloat16(std::bit_cast<float>(middle - 1)).bits != i;
    wrong += to_bfloat16(std::bit_cast<float>(middle)).bits != even;
    wrong += to_bfloat16(std::bit_cast<float>(middle + 1)).bits != i + 1;
  }
  CHECK(wrong == 0);
  // A NaN whose payload lies in the lower half only must not become infinity.
  CHECK(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("a stored scale is within its promised rounding") {
  for (const Scale type : {Scale::f32, Scale::f16, Scale::bf16}) {
    Random random(7);
    double largest = 0;
    for (int i = 0; i < 20000; ++i) {
      const auto x = static_cast<float>(std::exp2(random.uniform() * 28 - 13));  // normal in f16
      const double error = std::abs(static_cast<double>(rounded_to(type, x)) - x) / x;
      largest = std::max(largest, error);
    }
    CHECK(largest <= rounding_of(type));
    CHECK(largest >= 0.9 * rounding_of(type));  // of 20000 draws one comes near the worst case
    CHECK(rounded_to(type, smallest_normal(type)) == smallest_normal(type));
    CHECK(rounded_to(type, largest_finite(type)) == largest_finite(type));
    CHECK(rounded_to(type, 0.0f) == 0.0f);
  }
  CHECK(std::isinf(rounded_to(Scale::f16, 1e5f)));
}

static_assert(to_half(1.0f).bits == 0x3c00 && to_float(Half{0xc000}) == -2.0f);

}  // namespace
