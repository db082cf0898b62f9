// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON compute what needs exp: swiglu and softmax?
// Limit: about 50 arithmetic instructions for 8 values.
// Registers: the terms and constants stay in registers, loops are not unrolled.
// Not tried: one multiplication by 2^n, which could not reach subnormal results.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <bisup/kernel/exponential_terms.hpp>
#include <bisup/kernel/neon/lanes.hpp>

namespace bisup::neon {

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats two_to(Ints n) noexcept {
  const Ints biased = add(n, splat(127));
  return bits_as_floats({vshlq_n_s32(biased.low, 23), vshlq_n_s32(biased.high, 23)});
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats exponential(Floats x) noexcept {
  // Bounds first: larger and smaller return their second operand when one is NaN, so NaN stays.
  x = larger(splat(exponential_lowest), x);
  x = smaller(splat(exponential_highest), x);
  const Floats n = rounded(multiply(x, splat(log2_e)));
  Floats r = subtract_product(n, splat(ln2_high), x);
  r = subtract_product(n, splat(ln2_low), r);
  Floats power = splat(exponential_terms[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) {
    power = multiply_add(power, r, splat(exponential_terms[i]));
  }
  const Ints whole = to_ints(n), half = {vshrq_n_s32(whole.low, 1), vshrq_n_s32(whole.high, 1)};
  return multiply(multiply(power, two_to(half)), two_to(subtract(whole, half)));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void swiglu(const float* gate, const float* up, int count,
                                   float* y) noexcept {
  const Floats one = splat(1.0f);
  for (int i = 0; i < count; i += 8) {
    const Floats g = load_floats<DType::f32>(gate, i, count - i);
    const Floats u = load_floats<DType::f32>(up, i, count - i);
    const Floats below = add(one, exponential(subtract(splat(0.0f), g)));
    store_first(y + i, multiply(divide(g, below), u), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void softmax(float* x, int count) noexcept {
  if (count <= 0) return;
  Floats largest = splat(x[0]);
  for (int i = 0; i < count; i += 8) {
    const Floats here = load_floats<DType::f32>(x, i, count - i);
    const Mask present = first_lanes(count - i);
    largest = larger(largest, select(present, here, largest));
  }
  const Floats shift = splat(largest_lane(largest));
  Floats sum = splat(0.0f);
  for (int i = 0; i < count; i += 8) {
    const Floats e = exponential(subtract(load_floats<DType::f32>(x, i, count - i), shift));
    sum = add(sum, keep(first_lanes(count - i), e));
    store_first(x + i, e, count - i);
  }
  const Floats inverse = splat(1.0f / sum_lanes(sum));
  for (int i = 0; i < count; i += 8) {
    store_first(x + i, multiply(load_floats<DType::f32>(x, i, count - i), inverse), count - i);
  }
}

}  // namespace bisup::neon
#endif
