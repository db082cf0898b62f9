// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 apply the Walsh-Hadamard matrix? Steps of 1 to 8 inside registers, then two
// steps at a time between them. Every butterfly rounds as in the scalar kernel: the same bits.
// Limit: load and store ports, one pass over the row for two steps.
// Registers: four operands. Not tried: three steps at a time.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx512/lanes.hpp>

namespace bisup::avx512 {

// One step inside a register: `other` is x with partners swapped.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 butterfly(__m512 x, __m512 other, __mmask16 differences) noexcept {
  return _mm512_mask_sub_ps(_mm512_add_ps(x, other), differences, other, x);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 steps_in_register(__m512 x) noexcept {
  x = butterfly(x, _mm512_maskz_permute_ps(0xffff, x, 0xb1), 0xaaaa);
  x = butterfly(x, _mm512_maskz_permute_ps(0xffff, x, 0x4e), 0xcccc);
  x = butterfly(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0xb1), 0xf0f0);
  return butterfly(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0x4e), 0xff00);
}

// The steps whose partners are half, 2 half, ... n / 2 apart, then the scale. Whole: half is a
// multiple of 16, or ends are masked.
template <bool Whole>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void steps_between(float* x, int n, int half, float scale) noexcept {
  for (; 4 * half <= n; half *= 4) {
    for (int block = 0; block < n; block += 4 * half) {
      for (int i = 0; i < half; i += 16) {
        float* p = x + block + i;
        const __mmask16 mask = Whole ? 0xffff : first_lanes(half - i);
        const __m512 a = _mm512_maskz_loadu_ps(mask, p), b = _mm512_maskz_loadu_ps(mask, p + half);
        const __m512 c = _mm512_maskz_loadu_ps(mask, p + 2 * half);
        const __m512 d = _mm512_maskz_loadu_ps(mask, p + 3 * half);
        const __m512 ab = _mm512_add_ps(a, b), a_b = _mm512_sub_ps(a, b);
        const __m512 cd = _mm512_add_ps(c, d), c_d = _mm512_sub_ps(c, d);
        _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(ab, cd));
        _mm512_mask_storeu_ps(p + half, mask, _mm512_add_ps(a_b, c_d));
        _mm512_mask_storeu_ps(p + 2 * half, mask, _mm512_sub_ps(ab, cd));
        _mm512_mask_storeu_ps(p + 3 * half, mask, _mm512_sub_ps(a_b, c_d));
      }
    }
  }
  const __m512 factor = _mm512_set1_ps(scale);
  if (half < n) {  // one step is left: n = 2 half
    for (int i = 0; i < half; i += 16) {
      float* p = x + i;
      const __mmask16 mask = Whole ? 0xffff : first_lanes(half - i);
      const __m512 a = _mm512_maskz_loadu_ps(mask, p), b = _mm512_maskz_loadu_ps(mask, p + half);
      _mm512_mask_storeu_ps(p, mask, _mm512_mul_ps(_mm512_add_ps(a, b), factor));
      _mm512_mask_storeu_ps(p + half, mask, _mm512_mul_ps(_mm512_sub_ps(a, b), factor));
    }
    return;
  }
  for (int i = 0; i < n; i += 16) {
    const __mmask16 mask = Whole ? 0xffff : first_lanes(n - i);
    _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void hadamard_runs(float* x, int n, int run, float scale) noexcept {
  if (run % 16 == 0) {
    steps_between<true>(x, n * run, run, scale);
  } else {
    steps_between<false>(x, n * run, run, scale);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void hadamard(float* x, int n, float scale) noexcept {
  if (n < 16) return steps_between<false>(x, n, 1, scale);
  for (int i = 0; i < n; i += 16) {
    _mm512_storeu_ps(x + i, steps_in_register(_mm512_loadu_ps(x + i)));
  }
  steps_between<true>(x, n, 16, scale);
}

}  // namespace bisup::avx512
#endif
