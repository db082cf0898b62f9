// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 normalise, rotate and add rows?
// Limit: the load and store ports, for rows are in the first two caches.
// Registers: two sums for the norm, four operands elsewhere.
// Not tried: more sums; each of the three is below 2 % of one product of the same tokens.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx2/lanes.hpp>

namespace bisup::avx2 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void rms_norm(const float* x, const float* weight, int count, float eps,
                                     float* y) noexcept {
  __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
  for (int i = 0; i < count; i += 16) {
    const __m256 a = load_floats<DType::f32>(x, i, count - i);
    even = _mm256_fmadd_ps(a, a, even);
    if (count - i > 8) {
      const __m256 b = load_floats<DType::f32>(x, i + 8, count - i - 8);
      odd = _mm256_fmadd_ps(b, b, odd);
    }
  }
  const float mean = sum_lanes(_mm256_add_ps(even, odd)) / static_cast<float>(count);
  const float root = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps)));
  const __m256 inverse = _mm256_set1_ps(1.0f / root);
  for (int i = 0; i < count; i += 8) {
    const __m256 scaled = _mm256_mul_ps(load_floats<DType::f32>(x, i, count - i), inverse);
    store_first(y + i, _mm256_mul_ps(scaled, load_floats<DType::f32>(weight, i, count - i)),
                count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void rope(float* x, int heads, int half, const float* cosines,
                                 const float* sines) noexcept {
  for (int h = 0; h < heads; ++h, x += 2 * half) {
    for (int i = 0; i < half; i += 8) {
      const int left = half - i;
      const __m256 a = load_floats<DType::f32>(x, i, left);
      const __m256 b = load_floats<DType::f32>(x, half + i, left);
      const __m256 c = load_floats<DType::f32>(cosines, i, left);
      const __m256 s = load_floats<DType::f32>(sines, i, left);
      store_first(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), left);
      store_first(x + half + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)), left);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void add(const float* x, int count, float* y) noexcept {
  for (int i = 0; i < count; i += 8) {
    const __m256 a = load_floats<DType::f32>(x, i, count - i);
    store_first(y + i, _mm256_add_ps(a, load_floats<DType::f32>(y, i, count - i)), count - i);
  }
}

}  // namespace bisup::avx2
#endif
