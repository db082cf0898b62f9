// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON add up what rounding a group costs?
// Limit: 14 arithmetic instructions for 8 values of squares, 56 of the power; x stays in the
// first cache over all candidates.
// Registers: two sums, four constants of the levels; nothing presses.
// Not tried: looking at the limit at another distance than the other targets do.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/scalar_rounding_error.hpp>

namespace bisup::neon {

// a^1.2 for a >= 0: with r = a^(-1/5) by three steps of Newton, (a r^2)^2. The root of 1e-30
// serves for all below, whose r^5 would overflow.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats power_of_square(Floats a) noexcept {
  const Floats held = larger(a, splat(1e-30f));
  const Floats bits = to_floats(bits_as_ints(held));
  const Floats start = multiply_add(bits, splat(-0.2f), splat(inverse_fifth_root_bits));
  Floats r = bits_as_floats(to_ints(start));
  const Floats fifth = multiply(held, splat(0.2f));
#pragma GCC unroll 3
  for (int step = 0; step < 3; ++step) {  // r (6 - a r^5) / 5
    const Floats r2 = multiply(r, r);
    const Floats r5 = multiply(multiply(r2, r2), r);
    r = multiply(r, subtract_product(fifth, r5, splat(1.2f)));
  }
  const Floats root = multiply(multiply(a, r), r);
  return multiply(root, root);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats add_loss(Floats sum, Floats x, Floats weight, Floats inverse,
                                    Floats scale, Floats low, Floats high) noexcept {
  Floats level = rounded(multiply(x, inverse));
  level = smaller(larger(level, low), high);
  const Floats error = subtract_product(scale, level, x);
  const Floats square = multiply(error, error);
  return multiply_add(Squares ? square : power_of_square(square), weight, sum);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline float rounding_error(const float* x, const float* weights, int count,
                                            CodeLevels levels, float limit) noexcept {
  const Floats inverse = splat(1.0f / levels.scale), scale = splat(levels.scale);
  const Floats low = splat(levels.low), high = splat(levels.high);
  Floats even = splat(0.0f), odd = even, weight = splat(1.0f), other = weight;
  for (int i = 0; i < count; i += 16) {
    // Absent values are zero, and zero is a level.
    const int next = count - i > 8 ? i + 8 : i, rest = count - i > 8 ? count - i - 8 : 0;
    if (weights != nullptr) {
      weight = load_floats<DType::f32>(weights, i, count - i);
      other = load_floats<DType::f32>(weights, next, rest);
    }
    even = add_loss<Squares>(even, load_floats<DType::f32>(x, i, count - i), weight, inverse, scale,
                             low, high);
    odd = add_loss<Squares>(odd, load_floats<DType::f32>(x, next, rest), other, inverse, scale, low,
                            high);
    if (i % 256 == 240 && sum_lanes(add(even, odd)) > limit) break;
  }
  return sum_lanes(add(even, odd));
}

}  // namespace bisup::neon
#endif
