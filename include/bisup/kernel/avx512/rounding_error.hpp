// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 add up what rounding a group costs?
// Limit: seven arithmetic instructions for 16 values of squares, 28 of the power; x stays in the
// first cache over all candidates.
// Registers: two sums, four constants of the levels; nothing presses.
// Lost: looking at the limit more often than every 256 values (a sum over lanes costs 16 of them).

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/scalar_rounding_error.hpp>

namespace bisup::avx512 {

// a^1.2 for a >= 0: with r = a^(-1/5) by three steps of Newton, (a r^2)^2. The root of 1e-30
// serves for all below, whose r^5 would overflow.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 power_of_square(__m512 a) noexcept {
  const __m512 held = _mm512_maskz_max_ps(0xffff, a, _mm512_set1_ps(1e-30f));
  const __m512 bits = _mm512_maskz_cvtepi32_ps(0xffff, _mm512_castps_si512(held));
  const __m512 start =
      _mm512_fmadd_ps(bits, _mm512_set1_ps(-0.2f), _mm512_set1_ps(inverse_fifth_root_bits));
  __m512 r = _mm512_castsi512_ps(_mm512_maskz_cvtps_epi32(0xffff, start));
  const __m512 fifth = _mm512_mul_ps(held, _mm512_set1_ps(0.2f));
#pragma GCC unroll 3
  for (int step = 0; step < 3; ++step) {  // r (6 - a r^5) / 5
    const __m512 r2 = _mm512_mul_ps(r, r);
    const __m512 r5 = _mm512_mul_ps(_mm512_mul_ps(r2, r2), r);
    r = _mm512_mul_ps(r, _mm512_fnmadd_ps(fifth, r5, _mm512_set1_ps(1.2f)));
  }
  const __m512 root = _mm512_mul_ps(_mm512_mul_ps(a, r), r);
  return _mm512_mul_ps(root, root);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 add_loss(__m512 sum, __m512 x, __m512 weight, __m512 inverse,
                                    __m512 scale, __m512 low, __m512 high) noexcept {
  __m512 level = _mm512_maskz_roundscale_ps(0xffff, _mm512_mul_ps(x, inverse), 8);
  level = _mm512_maskz_min_ps(0xffff, _mm512_maskz_max_ps(0xffff, level, low), high);
  const __m512 error = _mm512_fnmadd_ps(scale, level, x);
  const __m512 square = _mm512_mul_ps(error, error);
  return _mm512_fmadd_ps(Squares ? square : power_of_square(square), weight, sum);
}

template <bool Squares>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline float rounding_error(const float* x, const float* weights, int count,
                                            CodeLevels levels, float limit) noexcept {
  const __m512 inverse = _mm512_set1_ps(1.0f / levels.scale), scale = _mm512_set1_ps(levels.scale);
  const __m512 low = _mm512_set1_ps(levels.low), high = _mm512_set1_ps(levels.high);
  __m512 even = _mm512_setzero_ps(), odd = even, weight = _mm512_set1_ps(1), other = weight;
  for (int i = 0; i < count; i += 32) {
    // Absent values are zero, and zero is a level.
    const __mmask16 first = first_lanes(count - i), second = first_lanes(count - i - 16);
    const int next = second ? i + 16 : i;
    if (weights != nullptr) {
      weight = _mm512_maskz_loadu_ps(first, weights + i);
      other = _mm512_maskz_loadu_ps(second, weights + next);
    }
    even = add_loss<Squares>(even, _mm512_maskz_loadu_ps(first, x + i), weight, inverse, scale, low,
                             high);
    odd = add_loss<Squares>(odd, _mm512_maskz_loadu_ps(second, x + next), other, inverse, scale,
                            low, high);
    if (i % 256 == 224 && sum_lanes(_mm512_add_ps(even, odd)) > limit) break;
  }
  return sum_lanes(_mm512_add_ps(even, odd));
}

}  // namespace bisup::avx512
#endif
