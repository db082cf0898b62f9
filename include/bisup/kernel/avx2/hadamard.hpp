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

#include <bisup/kernel/target.hpp>

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

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void hadamard(float* x, int n, float scale) noexcept {
  if (n < 8) {
    for (int half = 1; half < n; half *= 2) {
      for (int i = 0; i < n; ++i) {
        if (i & half) continue;
        const float a = x[i], b = x[i + half];
        x[i] = a + b, x[i + half] = a - b;
      }
    }
    for (int i = 0; i < n; ++i) x[i] *= scale;
    return;
  }
  for (int i = 0; i < n; i += 8) {
    _mm256_storeu_ps(x + i, steps_in_register(_mm256_loadu_ps(x + i)));
  }
  int half = 8;
  for (; 4 * half <= n; half *= 4) {
    for (int block = 0; block < n; block += 4 * half) {
      for (float* p = x + block; p < x + block + half; p += 8) {
        const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + half);
        const __m256 c = _mm256_loadu_ps(p + 2 * half), d = _mm256_loadu_ps(p + 3 * half);
        const __m256 ab = _mm256_add_ps(a, b), a_b = _mm256_sub_ps(a, b);
        const __m256 cd = _mm256_add_ps(c, d), c_d = _mm256_sub_ps(c, d);
        _mm256_storeu_ps(p, _mm256_add_ps(ab, cd));
        _mm256_storeu_ps(p + half, _mm256_add_ps(a_b, c_d));
        _mm256_storeu_ps(p + 2 * half, _mm256_sub_ps(ab, cd));
        _mm256_storeu_ps(p + 3 * half, _mm256_sub_ps(a_b, c_d));
      }
    }
  }
  const __m256 factor = _mm256_set1_ps(scale);
  if (half < n) {  // one step is left: n = 2 half
    for (float* p = x; p < x + half; p += 8) {
      const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + half);
      _mm256_storeu_ps(p, _mm256_mul_ps(_mm256_add_ps(a, b), factor));
      _mm256_storeu_ps(p + half, _mm256_mul_ps(_mm256_sub_ps(a, b), factor));
    }
    return;
  }
  for (int i = 0; i < n; i += 8) {
    _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
  }
}

}  // namespace bisup::avx2
#endif
