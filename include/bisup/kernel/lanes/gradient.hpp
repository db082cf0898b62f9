// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are the operations of a backward pass computed? Included by each_target.hpp.
// Limit: the load and store ports; exp where there is one (20 to 25 instructions a register).
// Registers: at most three sums and the constants of exp; loops are not unrolled.
// Not tried: two sums a dot product; all of them together are below 5 % of a backward pass.

#include <bisup/kernel/levels.hpp>

namespace bisup::BISUP_LANES {

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void round_to_levels(const float* x, int count,
                                            const LevelRange<float>& levels, float* y) noexcept {
  const Floats step = splat(levels.scale), inverse = splat(levels.inverse);
  const Floats low = splat(levels.low), high = splat(levels.high);
  for (int i = 0; i < count; i += lane_count) {
    const Floats level = rounded(multiply(load_row(x, i, count), inverse));
    const Floats held = smaller(larger(level, low), high);
    store_first(y + i, multiply(step, held), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline RangeGradient<float> round_gradient(const float* x, const float* g,
                                                           int count,
                                                           const LevelRange<float>& levels,
                                                           float* dx) noexcept {
  const Floats inverse = splat(levels.inverse);
  const Floats low = splat(levels.low), high = splat(levels.high);
  Floats inside = splat(0.0f), below = inside, above = inside;
  for (int i = 0; i < count; i += lane_count) {
    const Floats up = load_row(g, i, count);  // zero beyond the end, so no sum sees it
    const Floats u = multiply(load_row(x, i, count), inverse), level = rounded(u);
    const Mask in = both(at_most(low, level), at_most(level, high));
    below = add_where(less(level, low), below, up);
    above = add_where(less(high, level), above, up);
    inside = multiply_add_where(in, up, subtract(level, u), inside);
    store_first(dx + i, keep(in, up), count - i);
  }
  return {sum_lanes(inside), sum_lanes(below), sum_lanes(above)};
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void swiglu_gradient(const float* gate, const float* up, const float* dh,
                                            int count, float* dgate, float* dup) noexcept {
  const Floats one = splat(1.0f);
  for (int i = 0; i < count; i += lane_count) {
    const Floats a = load_row(gate, i, count), u = load_row(up, i, count);
    const Floats below = add(one, exponential(subtract(splat(0.0f), a)));
    const Floats s = divide(one, below), ds = multiply(load_row(dh, i, count), s);
    const Floats slope = multiply_add(a, subtract(one, s), one);
    store_first(dgate + i, multiply(multiply(ds, u), slope), count - i);
    store_first(dup + i, multiply(ds, a), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline float dot(const float* a, const float* b, int count) noexcept {
  Floats sum = splat(0.0f);
  for (int i = 0; i < count; i += lane_count) {
    sum = multiply_add(load_row(a, i, count), load_row(b, i, count), sum);
  }
  return sum_lanes(sum);
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void softmax_gradient(const float* p, const float* dp, int count,
                                             float* ds) noexcept {
  const Floats shift = splat(dot(p, dp, count));
  for (int i = 0; i < count; i += lane_count) {
    const Floats moved = subtract(load_row(dp, i, count), shift);
    store_first(ds + i, multiply(load_row(p, i, count), moved), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void rms_norm_gradient(const float* x, const float* weight, const float* dy,
                                              int count, float eps, float* dx) noexcept {
  Floats squares = splat(0.0f), dots = squares;
  for (int i = 0; i < count; i += lane_count) {
    const Floats a = load_row(x, i, count);
    const Floats d = multiply(load_row(weight, i, count), load_row(dy, i, count));
    squares = multiply_add(a, a, squares), dots = multiply_add(a, d, dots);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(count);
  const float inverse = 1.0f / square_root(mean + eps);
  const Floats scale = splat(inverse);
  const Floats pull =
      splat(inverse * inverse * inverse * (sum_lanes(dots) / static_cast<float>(count)));
  for (int i = 0; i < count; i += lane_count) {
    const Floats d = multiply(load_row(weight, i, count), load_row(dy, i, count));
    const Floats pulled = multiply(pull, load_row(x, i, count));
    store_first(dx + i, multiply_subtract(scale, d, pulled), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void product(const float* a, const float* b, int count, float* y) noexcept {
  for (int i = 0; i < count; i += lane_count) {
    store_first(y + i, multiply(load_row(a, i, count), load_row(b, i, count)), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void add_product(const float* a, const float* b, int count, float factor,
                                        float* sum) noexcept {
  const Floats scale = splat(factor);
  for (int i = 0; i < count; i += lane_count) {
    const Floats ab = multiply(load_row(a, i, count), load_row(b, i, count));
    store_first(sum + i, multiply_add(scale, ab, load_row(sum, i, count)), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline LogSum<float> log_sum(const float* x, int count) noexcept {
  Floats largest = splat(x[0]);
  for (int i = 0; i < count; i += lane_count) {
    largest = larger_where(first_lanes(count - i), largest, load_row(x, i, count));
  }
  const float top = largest_lane(largest);
  const Floats shift = splat(top);
  Floats sum = splat(0.0f);
  for (int i = 0; i < count; i += lane_count) {
    const Floats e = exponential(subtract(load_row(x, i, count), shift));
    sum = add_where(first_lanes(count - i), sum, e);
  }
  return {top, sum_lanes(sum)};
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline float divergence(const float* teacher, const float* student, int count,
                                        float p_log, float q_log, float factor,
                                        float* gradient) noexcept {
  const Floats pl = splat(p_log), ql = splat(q_log);
  const Floats scale = splat(factor);
  Floats kl = splat(0.0f);
  for (int i = 0; i < count; i += lane_count) {
    const Floats lp = subtract(load_row(teacher, i, count), pl);
    const Floats lq = subtract(load_row(student, i, count), ql);
    const Floats p = exponential(lp);
    kl = multiply_add_where(first_lanes(count - i), p, subtract(lp, lq), kl);
    store_first(gradient + i, multiply(scale, subtract(exponential(lq), p)), count - i);
  }
  return sum_lanes(kl);
}

}  // namespace bisup::BISUP_LANES
