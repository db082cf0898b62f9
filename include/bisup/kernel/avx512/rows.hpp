// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 normalise, rotate and add rows?
// Limit: the load and store ports, for rows are in the first two caches.
// Registers: two sums for the norm, four operands elsewhere.
// Not tried: more sums; each of the three is below 2 % of one product of the same tokens.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx512/lanes.hpp>

namespace bisup::avx512 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void rms_norm(const float* x, const float* weight, int count, float eps,
                                     float* y) noexcept {
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 32) {
    const __m512 a = _mm512_maskz_loadu_ps(first_lanes(count - i), x + i);
    const __mmask16 second = first_lanes(count - i - 16);
    const __m512 b = _mm512_maskz_loadu_ps(second, second ? x + i + 16 : x);
    even = _mm512_fmadd_ps(a, a, even), odd = _mm512_fmadd_ps(b, b, odd);
  }
  const float mean = sum_lanes(_mm512_add_ps(even, odd)) / static_cast<float>(count);
  const float root = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps)));
  const __m512 inverse = _mm512_set1_ps(1.0f / root);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse);
    _mm512_mask_storeu_ps(y + i, mask,
                          _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void rope(float* x, int heads, int half, const float* cosines,
                                 const float* sines) noexcept {
  for (int h = 0; h < heads; ++h, x += 2 * half) {
    for (int i = 0; i < half; i += 16) {
      const __mmask16 mask = first_lanes(half - i);
      const __m512 a = _mm512_maskz_loadu_ps(mask, x + i);
      const __m512 b = _mm512_maskz_loadu_ps(mask, x + half + i);
      const __m512 c = _mm512_maskz_loadu_ps(mask, cosines + i);
      const __m512 s = _mm512_maskz_loadu_ps(mask, sines + i);
      _mm512_mask_storeu_ps(x + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
      _mm512_mask_storeu_ps(x + half + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void add(const float* x, int count, float* y) noexcept {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    _mm512_mask_storeu_ps(
        y + i, mask,
        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i)));
  }
}

}  // namespace bisup::avx512
#endif
