// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 compute what needs exp: swiglu and softmax?
// Limit: about 20 arithmetic instructions for 16 values.
// Registers: the terms and constants stay in registers, loops are not unrolled.
// Not tried: a shorter polynomial; swiglu is about 1 % of the products of its block.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/exponential_terms.hpp>

namespace bisup::avx512 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 exponential(__m512 x) noexcept {
  // Bounds first: max and min return their second operand when one is NaN, so NaN stays.
  x = _mm512_maskz_max_ps(0xffff, _mm512_set1_ps(exponential_lowest), x);
  x = _mm512_maskz_min_ps(0xffff, _mm512_set1_ps(exponential_highest), x);
  const __m512 n = _mm512_maskz_roundscale_ps(0xffff, _mm512_mul_ps(x, _mm512_set1_ps(log2_e)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(ln2_high), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(ln2_low), r);
  __m512 power = _mm512_set1_ps(exponential_terms[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) {
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(exponential_terms[i]));
  }
  return _mm512_maskz_scalef_ps(0xffff, power, n);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void swiglu(const float* gate, const float* up, int count,
                                   float* y) noexcept {
  const __m512 one = _mm512_set1_ps(1);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 g = _mm512_maskz_loadu_ps(mask, gate + i), u = _mm512_maskz_loadu_ps(mask, up + i);
    const __m512 below = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), g)));
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(_mm512_div_ps(g, below), u));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void softmax(float* x, int count) noexcept {
  if (count <= 0) return;
  __m512 largest = _mm512_set1_ps(x[0]);
  for (int i = 0; i < count; i += 16) {
    largest = _mm512_mask_max_ps(largest, first_lanes(count - i), largest,
                                 _mm512_maskz_loadu_ps(first_lanes(count - i), x + i));
  }
  const __m512 shift = _mm512_set1_ps(largest_lane(largest));
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 e = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), shift));
    sum = _mm512_mask_add_ps(sum, mask, sum, e);
    _mm512_mask_storeu_ps(x + i, mask, e);
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / sum_lanes(sum));
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
  }
}

}  // namespace bisup::avx512
#endif
