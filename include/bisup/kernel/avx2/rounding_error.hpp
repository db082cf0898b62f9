// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 add up what rounding a group costs?
// Limit: seven arithmetic instructions for 8 values of squares, 28 of the power; x stays in the
// first cache over all candidates.
// Registers: two sums, four constants of the levels; nothing presses.
// Not tried: looking at the limit at another distance than AVX-512 does.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/scalar_rounding_error.hpp>

namespace bisup::avx2 {

// a^1.2 for a >= 0: with r = a^(-1/5) by three steps of Newton, (a r^2)^2. The root of 1e-30
// serves for all below, whose r^5 would overflow.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 power_of_square(__m256 a) noexcept {
  const __m256 held = _mm256_max_ps(a, _mm256_set1_ps(1e-30f));
  const __m256 bits = _mm256_cvtepi32_ps(_mm256_castps_si256(held));
  const __m256 start =
      _mm256_fmadd_ps(bits, _mm256_set1_ps(-0.2f), _mm256_set1_ps(inverse_fifth_root_bits));
  __m256 r = _mm256_castsi256_ps(_mm256_cvtps_epi32(start));
  const __m256 fifth = _mm256_mul_ps(held, _mm256_set1_ps(0.2f));
#pragma GCC unroll 3
  for (int step = 0; step < 3; ++step) {  // r (6 - a r^5) / 5
    const __m256 r2 = _mm256_mul_ps(r, r);
    const __m256 r5 = _mm256_mul_ps(_mm256_mul_ps(r2, r2), r);
    r = _mm256_mul_ps(r, _mm256_fnmadd_ps(fifth, r5, _mm256_set1_ps(1.2f)));
  }
  const __m256 root = _mm256_mul_ps(_mm256_mul_ps(a, r), r);
  return _mm256_mul_ps(root, root);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 add_loss(__m256 sum, __m256 x, __m256 weight, __m256 inverse,
                                    __m256 scale, __m256 low, __m256 high) noexcept {
  __m256 level = _mm256_round_ps(_mm256_mul_ps(x, inverse), 8);
  level = _mm256_min_ps(_mm256_max_ps(level, low), high);
  const __m256 error = _mm256_fnmadd_ps(scale, level, x);
  const __m256 square = _mm256_mul_ps(error, error);
  return _mm256_fmadd_ps(Squares ? square : power_of_square(square), weight, sum);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline float rounding_error(const float* x, const float* weights, int count,
                                            CodeLevels levels, float limit) noexcept {
  const __m256 inverse = _mm256_set1_ps(1.0f / levels.scale), scale = _mm256_set1_ps(levels.scale);
  const __m256 low = _mm256_set1_ps(levels.low), high = _mm256_set1_ps(levels.high);
  __m256 even = _mm256_setzero_ps(), odd = even, weight = _mm256_set1_ps(1), other = weight;
  for (int i = 0; i < count; i += 16) {
    // Absent values are zero, and zero is a level.
    const int next = count - i > 8 ? i + 8 : i, rest = count - i > 8 ? count - i - 8 : 0;
    if (weights != nullptr) {
      weight = load_floats<DType::f32>(weights, i, count - i);
      other = load_floats<DType::f32>(weights, next, rest);
    }
    even = add_loss<Squares>(even, load_floats<DType::f32>(x, i, count - i), weight, inverse, scale,
                             low, high);
    odd = add_loss<Squares>(odd, load_floats<DType::f32>(x, next, rest), other, inverse, scale, low,
                            high);
    if (i % 256 == 240 && sum_lanes(_mm256_add_ps(even, odd)) > limit) break;
  }
  return sum_lanes(_mm256_add_ps(even, odd));
}

}  // namespace bisup::avx2
#endif
