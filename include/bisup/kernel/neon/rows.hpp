// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON normalise, rotate and add rows?
// Limit: the load and store ports, for rows are in the first two caches.
// Registers: two sums for the norm, four operands elsewhere.
// Not tried: more sums.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <bisup/kernel/neon/lanes.hpp>

namespace bisup::neon {

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void rms_norm(const float* x, const float* weight, int count, float eps,
                                     float* y) noexcept {
  Floats even = splat(0.0f), odd = splat(0.0f);
  for (int i = 0; i < count; i += 16) {
    const Floats a = load_floats<DType::f32>(x, i, count - i);
    even = multiply_add(a, a, even);
    if (count - i > 8) {
      const Floats b = load_floats<DType::f32>(x, i + 8, count - i - 8);
      odd = multiply_add(b, b, odd);
    }
  }
  const float mean = sum_lanes(add(even, odd)) / static_cast<float>(count);
  const float root = vget_lane_f32(vsqrt_f32(vdup_n_f32(mean + eps)), 0);
  const Floats inverse = splat(1.0f / root);
  for (int i = 0; i < count; i += 8) {
    const Floats scaled = multiply(load_floats<DType::f32>(x, i, count - i), inverse);
    store_first(y + i, multiply(scaled, load_floats<DType::f32>(weight, i, count - i)), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void rope(float* x, int heads, int half, const float* cosines,
                                 const float* sines) noexcept {
  for (int h = 0; h < heads; ++h, x += 2 * half) {
    for (int i = 0; i < half; i += 8) {
      const int left = half - i;
      const Floats a = load_floats<DType::f32>(x, i, left);
      const Floats b = load_floats<DType::f32>(x, half + i, left);
      const Floats c = load_floats<DType::f32>(cosines, i, left);
      const Floats s = load_floats<DType::f32>(sines, i, left);
      store_first(x + i, multiply_subtract(a, c, multiply(b, s)), left);
      store_first(x + half + i, multiply_add(b, c, multiply(a, s)), left);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void add(const float* x, int count, float* y) noexcept {
  for (int i = 0; i < count; i += 8) {
    const Floats a = load_floats<DType::f32>(x, i, count - i);
    store_first(y + i, add(a, load_floats<DType::f32>(y, i, count - i)), count - i);
  }
}

}  // namespace bisup::neon
#endif
