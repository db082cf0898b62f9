// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 compute the operations of a backward pass?
// Limit: the load and store ports; exp where there is one (about 20 instructions for 16 values).
// Registers: at most three sums and the constants of exp; loops are not unrolled.
// Not tried: two sums a dot product; all of them together are below 5 % of a backward pass.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx512/exponential.hpp>
#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/levels.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void round_to_levels(const float* x, int count,
                                            const LevelRange<float>& levels, float* y) noexcept {
  const __m512 step = _mm512_set1_ps(levels.scale), inverse = _mm512_set1_ps(levels.inverse);
  const __m512 low = _mm512_set1_ps(levels.low), high = _mm512_set1_ps(levels.high);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 u = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse);
    const __m512 level = _mm512_maskz_roundscale_ps(0xffff, u, 8);
    const __m512 held = _mm512_min_ps(_mm512_max_ps(level, low), high);
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(step, held));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline RangeGradient<float> round_gradient(const float* x, const float* g,
                                                           int count,
                                                           const LevelRange<float>& levels,
                                                           float* dx) noexcept {
  const __m512 inverse = _mm512_set1_ps(levels.inverse);
  const __m512 low = _mm512_set1_ps(levels.low), high = _mm512_set1_ps(levels.high);
  __m512 inside = _mm512_setzero_ps(), below = inside, above = inside;
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 up = _mm512_maskz_loadu_ps(mask, g + i);
    const __m512 u = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse);
    const __m512 level = _mm512_maskz_roundscale_ps(0xffff, u, 8);
    const __mmask16 under = _mm512_cmp_ps_mask(level, low, _CMP_LT_OQ);
    const __mmask16 over = _mm512_cmp_ps_mask(level, high, _CMP_GT_OQ);
    const __mmask16 in = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(level, low, _CMP_GE_OQ), level,
                                                 high, _CMP_LE_OQ);
    below = _mm512_mask_add_ps(below, under, below, up);
    above = _mm512_mask_add_ps(above, over, above, up);
    inside = _mm512_mask3_fmadd_ps(up, _mm512_sub_ps(level, u), inside, in);
    _mm512_mask_storeu_ps(dx + i, mask, _mm512_maskz_mov_ps(in, up));
  }
  return {sum_lanes(inside), sum_lanes(below), sum_lanes(above)};
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void swiglu_gradient(const float* gate, const float* up, const float* dh,
                                            int count, float* dgate, float* dup) noexcept {
  const __m512 one = _mm512_set1_ps(1);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 a = _mm512_maskz_loadu_ps(mask, gate + i), u = _mm512_maskz_loadu_ps(mask, up + i);
    const __m512 d = _mm512_maskz_loadu_ps(mask, dh + i);
    const __m512 below = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), a)));
    const __m512 s = _mm512_div_ps(one, below), ds = _mm512_mul_ps(d, s);
    const __m512 slope = _mm512_fmadd_ps(a, _mm512_sub_ps(one, s), one);
    _mm512_mask_storeu_ps(dgate + i, mask, _mm512_mul_ps(_mm512_mul_ps(ds, u), slope));
    _mm512_mask_storeu_ps(dup + i, mask, _mm512_mul_ps(ds, a));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline float dot(const float* a, const float* b, int count) noexcept {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i),
                          sum);
  }
  return sum_lanes(sum);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void softmax_gradient(const float* p, const float* dp, int count,
                                             float* ds) noexcept {
  const __m512 shift = _mm512_set1_ps(dot(p, dp, count));
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 moved = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, dp + i), shift);
    _mm512_mask_storeu_ps(ds + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, p + i), moved));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void rms_norm_gradient(const float* x, const float* weight, const float* dy,
                                              int count, float eps, float* dx) noexcept {
  __m512 squares = _mm512_setzero_ps(), dots = squares;
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 a = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512 d =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, weight + i), _mm512_maskz_loadu_ps(mask, dy + i));
    squares = _mm512_fmadd_ps(a, a, squares), dots = _mm512_fmadd_ps(a, d, dots);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(count);
  const float inverse = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps)));
  const __m512 scale = _mm512_set1_ps(inverse);
  const __m512 pull =
      _mm512_set1_ps(inverse * inverse * inverse * (sum_lanes(dots) / static_cast<float>(count)));
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 d =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, weight + i), _mm512_maskz_loadu_ps(mask, dy + i));
    const __m512 pulled = _mm512_mul_ps(pull, _mm512_maskz_loadu_ps(mask, x + i));
    _mm512_mask_storeu_ps(dx + i, mask, _mm512_fmsub_ps(scale, d, pulled));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void product(const float* a, const float* b, int count, float* y) noexcept {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    _mm512_mask_storeu_ps(
        y + i, mask,
        _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i)));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void add_product(const float* a, const float* b, int count, float factor,
                                        float* sum) noexcept {
  const __m512 scale = _mm512_set1_ps(factor);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 ab =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i));
    _mm512_mask_storeu_ps(sum + i, mask,
                          _mm512_fmadd_ps(scale, ab, _mm512_maskz_loadu_ps(mask, sum + i)));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline LogSum<float> log_sum(const float* x, int count) noexcept {
  __m512 largest = _mm512_set1_ps(x[0]);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    largest = _mm512_mask_max_ps(largest, mask, largest, _mm512_maskz_loadu_ps(mask, x + i));
  }
  const float top = largest_lane(largest);
  const __m512 shift = _mm512_set1_ps(top);
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 e = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), shift));
    sum = _mm512_mask_add_ps(sum, mask, sum, e);
  }
  return {top, sum_lanes(sum)};
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline float divergence(const float* teacher, const float* student, int count,
                                        float p_log, float q_log, float factor,
                                        float* gradient) noexcept {
  const __m512 pl = _mm512_set1_ps(p_log), ql = _mm512_set1_ps(q_log);
  const __m512 scale = _mm512_set1_ps(factor);
  __m512 kl = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 lp = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, teacher + i), pl);
    const __m512 lq = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, student + i), ql);
    const __m512 p = exponential(lp);
    kl = _mm512_mask3_fmadd_ps(p, _mm512_sub_ps(lp, lq), kl, mask);
    _mm512_mask_storeu_ps(gradient + i, mask,
                          _mm512_mul_ps(scale, _mm512_sub_ps(exponential(lq), p)));
  }
  return sum_lanes(kl);
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
