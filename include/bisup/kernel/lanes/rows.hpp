// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are rows normalised, rotated and added? Included by each_target.hpp.
// Limit: the load and store ports, for rows are in the first two caches.
// Registers: two sums for the norm, four operands elsewhere.
// Not tried: more sums; each of the three is below 2 % of one product of the same tokens.

namespace bisup::BISUP_LANES {

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void rms_norm(const float* x, const float* weight, int count, float eps,
                                     float* y) noexcept {
  Floats even = splat(0.0f), odd = splat(0.0f);
  for (int i = 0; i < count; i += 2 * lane_count) {
    const Floats a = load_row(x, i, count);
    even = multiply_add(a, a, even);
    if (count - i > lane_count) {
      const Floats b = load_row(x, i + lane_count, count);
      odd = multiply_add(b, b, odd);
    }
  }
  const float mean = sum_lanes(add(even, odd)) / static_cast<float>(count);
  const float root = square_root(mean + eps);
  const Floats inverse = splat(1.0f / root);
  for (int i = 0; i < count; i += lane_count) {
    const Floats scaled = multiply(load_row(x, i, count), inverse);
    store_first(y + i, multiply(scaled, load_row(weight, i, count)), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void rope(float* x, int heads, int half, const float* cosines,
                                 const float* sines) noexcept {
  for (int h = 0; h < heads; ++h, x += 2 * half) {
    for (int i = 0; i < half; i += lane_count) {
      const int left = half - i;
      const Floats a = load_row(x, i, half);
      const Floats b = load_row(x + half, i, half);
      const Floats c = load_row(cosines, i, half);
      const Floats s = load_row(sines, i, half);
      store_first(x + i, multiply_subtract(a, c, multiply(b, s)), left);
      store_first(x + half + i, multiply_add(b, c, multiply(a, s)), left);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void add(const float* x, int count, float* y) noexcept {
  for (int i = 0; i < count; i += lane_count) {
    const Floats a = load_row(x, i, count);
    store_first(y + i, add(a, load_row(y, i, count)), count - i);
  }
}

}  // namespace bisup::BISUP_LANES
