// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How is computed what needs exp: swiglu and softmax? Included by each_target.hpp.
// Limit: about 20 arithmetic instructions a register of values where a power of two is one of them
// (AVX-512), else 25; twice as many on NEON, whose eight lanes are two registers.
// Registers: the terms and constants stay in registers, loops are not unrolled.
// Not tried: a shorter polynomial; swiglu is about 1 % of the products of its block.

#include <bisup/kernel/exponential_terms.hpp>

namespace bisup::BISUP_LANES {

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
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
  return times_two_to(power, n);
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void swiglu(const float* gate, const float* up, int count,
                                   float* y) noexcept {
  const Floats one = splat(1.0f);
  for (int i = 0; i < count; i += lane_count) {
    const Floats g = load_row(gate, i, count);
    const Floats u = load_row(up, i, count);
    const Floats below = add(one, exponential(subtract(splat(0.0f), g)));
    store_first(y + i, multiply(divide(g, below), u), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void softmax(float* x, int count) noexcept {
  if (count <= 0) return;
  Floats largest = splat(x[0]);
  for (int i = 0; i < count; i += lane_count) {
    largest = larger_where(first_lanes(count - i), largest, load_row(x, i, count));
  }
  const Floats shift = splat(largest_lane(largest));
  Floats sum = splat(0.0f);
  for (int i = 0; i < count; i += lane_count) {
    const Floats e = exponential(subtract(load_row(x, i, count), shift));
    sum = add_where(first_lanes(count - i), sum, e);
    store_first(x + i, e, count - i);
  }
  const Floats inverse = splat(1.0f / sum_lanes(sum));
  for (int i = 0; i < count; i += lane_count) {
    store_first(x + i, multiply(load_row(x, i, count), inverse), count - i);
  }
}

}  // namespace bisup::BISUP_LANES
