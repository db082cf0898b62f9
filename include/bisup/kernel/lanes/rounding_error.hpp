// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How is added up what rounding a group costs? Included by each_target.hpp.
// Limit: seven arithmetic instructions a register of squares, 28 of the power; x stays in the first
// cache over all candidates.
// Registers: two sums, four constants of the levels; nothing presses.
// Lost: looking at the limit more often than every 256 values (a sum over lanes costs 16 of them).

#include <bisup/kernel/scalar_rounding_error.hpp>

namespace bisup::BISUP_LANES {

// a^1.2 for a >= 0: with r = a^(-1/5) by three steps of Newton, (a r^2)^2. The root of 1e-30
// serves for all below, whose r^5 would overflow.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
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
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE Floats add_loss(Floats sum, Floats x, Floats weight, Floats inverse,
                                    Floats scale, Floats low, Floats high) noexcept {
  Floats level = rounded(multiply(x, inverse));
  level = smaller(larger(level, low), high);
  const Floats error = subtract_product(scale, level, x);
  const Floats square = multiply(error, error);
  return multiply_add(Squares ? square : power_of_square(square), weight, sum);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline float rounding_error(const float* x, const float* weights, int count,
                                            CodeLevels levels, float limit) noexcept {
  const Floats inverse = splat(1.0f / levels.scale), scale = splat(levels.scale);
  const Floats low = splat(levels.low), high = splat(levels.high);
  Floats even = splat(0.0f), odd = even, weight = splat(1.0f), other = weight;
  for (int i = 0; i < count; i += 2 * lane_count) {
    // Absent values are zero, and zero is a level.
    const int rest = count - i > lane_count ? count - i - lane_count : 0;
    const int next = rest > 0 ? i + lane_count : i;
    if (weights != nullptr) {
      weight = load_row(weights, i, count);
      other = load_floats<DType::f32>(weights, next, rest);
    }
    even = add_loss<Squares>(even, load_row(x, i, count), weight, inverse, scale, low, high);
    odd = add_loss<Squares>(odd, load_floats<DType::f32>(x, next, rest), other, inverse, scale, low,
                            high);
    if (i % 256 == 256 - 2 * lane_count && sum_lanes(add(even, odd)) > limit) break;
  }
  return sum_lanes(add(even, odd));
}

}  // namespace bisup::BISUP_LANES
