// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON apply the Walsh-Hadamard matrix? Steps of 1 to 4 inside registers, then two steps
// at a time between registers. Every butterfly rounds as in the scalar kernel: the same bits.
// Limit: load and store ports, one pass over the row for two steps.
// Registers: four operands. Not tried: three steps at a time.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <bisup/kernel/neon/lanes.hpp>

namespace bisup::neon {

// The steps whose partners are 1 and 2 apart, inside one register.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float32x4_t steps_in_four(float32x4_t x) noexcept {
  const float32x4_t even = vtrn1q_f32(x, x), odd = vtrn2q_f32(x, x);  // 0 0 2 2, 1 1 3 3
  x = vtrn1q_f32(vaddq_f32(even, odd), vsubq_f32(even, odd));
  const float32x4_t first = vcombine_f32(vget_low_f32(x), vget_low_f32(x));
  const float32x4_t second = vcombine_f32(vget_high_f32(x), vget_high_f32(x));
  return vcombine_f32(vget_low_f32(vaddq_f32(first, second)),
                      vget_low_f32(vsubq_f32(first, second)));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats steps_in_register(Floats x) noexcept {
  x = {steps_in_four(x.low), steps_in_four(x.high)};
  return {vaddq_f32(x.low, x.high), vsubq_f32(x.low, x.high)};
}

template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats load_run(const float* from, int left) noexcept {
  return load_floats<DType::f32>(from, 0, Whole ? 8 : left);
}

template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store_run(float* to, Floats v, int left) noexcept {
  store_first(to, v, Whole ? 8 : left);
}

// The steps whose partners are half, 2 half, ... n / 2 apart, then the scale. Whole: half is a
// multiple of 8, or the last registers of a run are partly used.
template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void steps_between(float* x, int n, int half, float scale) noexcept {
  for (; 4 * half <= n; half *= 4) {
    for (int block = 0; block < n; block += 4 * half) {
      for (int i = 0; i < half; i += 8) {
        float* p = x + block + i;
        const int left = half - i;
        const Floats a = load_run<Whole>(p, left), b = load_run<Whole>(p + half, left);
        const Floats c = load_run<Whole>(p + 2 * half, left);
        const Floats d = load_run<Whole>(p + 3 * half, left);
        const Floats ab = add(a, b), a_b = subtract(a, b);
        const Floats cd = add(c, d), c_d = subtract(c, d);
        store_run<Whole>(p, add(ab, cd), left);
        store_run<Whole>(p + half, add(a_b, c_d), left);
        store_run<Whole>(p + 2 * half, subtract(ab, cd), left);
        store_run<Whole>(p + 3 * half, subtract(a_b, c_d), left);
      }
    }
  }
  const Floats factor = splat(scale);
  if (half < n) {  // one step is left: n = 2 half
    for (int i = 0; i < half; i += 8) {
      float* p = x + i;
      const int left = half - i;
      const Floats a = load_run<Whole>(p, left), b = load_run<Whole>(p + half, left);
      store_run<Whole>(p, multiply(add(a, b), factor), left);
      store_run<Whole>(p + half, multiply(subtract(a, b), factor), left);
    }
    return;
  }
  for (int i = 0; i < n; i += 8) {
    store_run<Whole>(x + i, multiply(load_run<Whole>(x + i, n - i), factor), n - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void hadamard_runs(float* x, int n, int run, float scale) noexcept {
  if (run % 8 == 0) {
    steps_between<true>(x, n * run, run, scale);
  } else {
    steps_between<false>(x, n * run, run, scale);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void hadamard(float* x, int n, float scale) noexcept {
  if (n < 8) return steps_between<false>(x, n, 1, scale);
  for (int i = 0; i < n; i += 8) {
    store(x + i, steps_in_register(load(x + i)));
  }
  steps_between<true>(x, n, 8, scale);
}

}  // namespace bisup::neon
#endif
