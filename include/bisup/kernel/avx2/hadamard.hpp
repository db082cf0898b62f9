// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 apply the Walsh-Hadamard matrix? Steps of 1 to 4 inside registers, then two steps
// at a time between registers. Every butterfly rounds as in the scalar kernel: the same bits.
// Limit: load and store ports, one pass over the row for two steps.
// Registers: four operands. Not tried: three steps at a time.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx2/lanes.hpp>

namespace bisup::avx2 {

// One step inside a register: `other` is x with partners swapped.
template <int Differences>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 butterfly(__m256 x, __m256 other) noexcept {
  return _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), Differences);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 steps_in_register(__m256 x) noexcept {
  x = butterfly<0xaa>(x, _mm256_permute_ps(x, 0xb1));
  x = butterfly<0xcc>(x, _mm256_permute_ps(x, 0x4e));
  return butterfly<0xf0>(x, _mm256_permute2f128_ps(x, x, 1));
}

template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 load_run(const float* from, int left) noexcept {
  return load_floats<DType::f32>(from, 0, Whole ? 8 : left);
}

template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_run(float* to, __m256 v, int left) noexcept {
  store_first(to, v, Whole ? 8 : left);
}

// The steps whose partners are half, 2 half, ... n / 2 apart, then the scale. Whole: half is a
// multiple of 8, or the last registers of a run are partly used.
template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void steps_between(float* x, int n, int half, float scale) noexcept {
  for (; 4 * half <= n; half *= 4) {
    for (int block = 0; block < n; block += 4 * half) {
      for (int i = 0; i < half; i += 8) {
        float* p = x + block + i;
        const int left = half - i;
        const __m256 a = load_run<Whole>(p, left), b = load_run<Whole>(p + half, left);
        const __m256 c = load_run<Whole>(p + 2 * half, left);
        const __m256 d = load_run<Whole>(p + 3 * half, left);
        const __m256 ab = _mm256_add_ps(a, b), a_b = _mm256_sub_ps(a, b);
        const __m256 cd = _mm256_add_ps(c, d), c_d = _mm256_sub_ps(c, d);
        store_run<Whole>(p, _mm256_add_ps(ab, cd), left);
        store_run<Whole>(p + half, _mm256_add_ps(a_b, c_d), left);
        store_run<Whole>(p + 2 * half, _mm256_sub_ps(ab, cd), left);
        store_run<Whole>(p + 3 * half, _mm256_sub_ps(a_b, c_d), left);
      }
    }
  }
  const __m256 factor = _mm256_set1_ps(scale);
  if (half < n) {  // one step is left: n = 2 half
    for (int i = 0; i < half; i += 8) {
      float* p = x + i;
      const int left = half - i;
      const __m256 a = load_run<Whole>(p, left), b = load_run<Whole>(p + half, left);
      store_run<Whole>(p, _mm256_mul_ps(_mm256_add_ps(a, b), factor), left);
      store_run<Whole>(p + half, _mm256_mul_ps(_mm256_sub_ps(a, b), factor), left);
    }
    return;
  }
  for (int i = 0; i < n; i += 8) {
    store_run<Whole>(x + i, _mm256_mul_ps(load_run<Whole>(x + i, n - i), factor), n - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void hadamard_runs(float* x, int n, int run, float scale) noexcept {
  if (run % 8 == 0) {
    steps_between<true>(x, n * run, run, scale);
  } else {
    steps_between<false>(x, n * run, run, scale);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void hadamard(float* x, int n, float scale) noexcept {
  if (n < 8) return steps_between<false>(x, n, 1, scale);
  for (int i = 0; i < n; i += 8) {
    _mm256_storeu_ps(x + i, steps_in_register(_mm256_loadu_ps(x + i)));
  }
  steps_between<true>(x, n, 8, scale);
}

}  // namespace bisup::avx2
#endif
