// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 compute what needs exp: swiglu and softmax?
// Limit: about 25 arithmetic instructions for 8 values.
// Registers: the terms and constants stay in registers, loops are not unrolled.
// Not tried: one multiplication by 2^n, which could not reach subnormal results.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/exponential_terms.hpp>

namespace bisup::avx2 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 two_to(__m256i n) noexcept {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 exponential(__m256 x) noexcept {
  // Bounds first: max and min return their second operand when one is NaN, so NaN stays.
  x = _mm256_max_ps(_mm256_set1_ps(exponential_lowest), x);
  x = _mm256_min_ps(_mm256_set1_ps(exponential_highest), x);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(log2_e)), 8);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(ln2_high), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(ln2_low), r);
  __m256 power = _mm256_set1_ps(exponential_terms[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) {
    power = _mm256_fmadd_ps(power, r, _mm256_set1_ps(exponential_terms[i]));
  }
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return _mm256_mul_ps(_mm256_mul_ps(power, two_to(half)), two_to(_mm256_sub_epi32(whole, half)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void swiglu(const float* gate, const float* up, int count,
                                   float* y) noexcept {
  const __m256 one = _mm256_set1_ps(1);
  for (int i = 0; i < count; i += 8) {
    const __m256 g = load_floats<DType::f32>(gate, i, count - i);
    const __m256 u = load_floats<DType::f32>(up, i, count - i);
    const __m256 below = _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), g)));
    store_first(y + i, _mm256_mul_ps(_mm256_div_ps(g, below), u), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void softmax(float* x, int count) noexcept {
  if (count <= 0) return;
  __m256 largest = _mm256_set1_ps(x[0]);
  for (int i = 0; i < count; i += 8) {
    const __m256 here = load_floats<DType::f32>(x, i, count - i);
    const __m256 present = _mm256_castsi256_ps(first_lanes(count - i));
    largest = _mm256_max_ps(largest, _mm256_blendv_ps(largest, here, present));
  }
  const __m256 shift = _mm256_set1_ps(largest_lane(largest));
  __m256 sum = _mm256_setzero_ps();
  for (int i = 0; i < count; i += 8) {
    const __m256 e = exponential(_mm256_sub_ps(load_floats<DType::f32>(x, i, count - i), shift));
    sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(first_lanes(count - i))));
    store_first(x + i, e, count - i);
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / sum_lanes(sum));
  for (int i = 0; i < count; i += 8) {
    store_first(x + i, _mm256_mul_ps(load_floats<DType::f32>(x, i, count - i), inverse), count - i);
  }
}

}  // namespace bisup::avx2
#endif
