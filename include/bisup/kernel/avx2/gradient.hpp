// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 compute the operations of a backward pass?
// Limit: the load and store ports; exp where there is one (about 25 instructions for 8 values).
// Registers: at most three sums and the constants of exp; loops are not unrolled.
// Not tried: two sums a dot product; all of them together are below 5 % of a backward pass.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/avx2/exponential.hpp>
#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/levels.hpp>

namespace bisup::avx2 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 load_row(const float* x, int at, int count) noexcept {
  return load_floats<DType::f32>(x, at, count - at);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void round_to_levels(const float* x, int count,
                                            const LevelRange<float>& levels, float* y) noexcept {
  const __m256 step = _mm256_set1_ps(levels.scale), inverse = _mm256_set1_ps(levels.inverse);
  const __m256 low = _mm256_set1_ps(levels.low), high = _mm256_set1_ps(levels.high);
  for (int i = 0; i < count; i += 8) {
    const __m256 level = _mm256_round_ps(_mm256_mul_ps(load_row(x, i, count), inverse), 8);
    const __m256 held = _mm256_min_ps(_mm256_max_ps(level, low), high);
    store_first(y + i, _mm256_mul_ps(step, held), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline RangeGradient<float> round_gradient(const float* x, const float* g,
                                                           int count,
                                                           const LevelRange<float>& levels,
                                                           float* dx) noexcept {
  const __m256 inverse = _mm256_set1_ps(levels.inverse);
  const __m256 low = _mm256_set1_ps(levels.low), high = _mm256_set1_ps(levels.high);
  __m256 inside = _mm256_setzero_ps(), below = inside, above = inside;
  for (int i = 0; i < count; i += 8) {
    const __m256 up = load_row(g, i, count);  // zero beyond the end, so no sum sees it
    const __m256 u = _mm256_mul_ps(load_row(x, i, count), inverse), level = _mm256_round_ps(u, 8);
    const __m256 in = _mm256_and_ps(_mm256_cmp_ps(level, low, _CMP_GE_OQ),
                                    _mm256_cmp_ps(level, high, _CMP_LE_OQ));
    below = _mm256_add_ps(below, _mm256_and_ps(_mm256_cmp_ps(level, low, _CMP_LT_OQ), up));
    above = _mm256_add_ps(above, _mm256_and_ps(_mm256_cmp_ps(level, high, _CMP_GT_OQ), up));
    const __m256 passed = _mm256_and_ps(in, up);
    inside = _mm256_fmadd_ps(passed, _mm256_and_ps(in, _mm256_sub_ps(level, u)), inside);
    store_first(dx + i, passed, count - i);
  }
  return {sum_lanes(inside), sum_lanes(below), sum_lanes(above)};
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void swiglu_gradient(const float* gate, const float* up, const float* dh,
                                            int count, float* dgate, float* dup) noexcept {
  const __m256 one = _mm256_set1_ps(1);
  for (int i = 0; i < count; i += 8) {
    const __m256 a = load_row(gate, i, count), u = load_row(up, i, count);
    const __m256 below = _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), a)));
    const __m256 s = _mm256_div_ps(one, below), ds = _mm256_mul_ps(load_row(dh, i, count), s);
    const __m256 slope = _mm256_fmadd_ps(a, _mm256_sub_ps(one, s), one);
    store_first(dgate + i, _mm256_mul_ps(_mm256_mul_ps(ds, u), slope), count - i);
    store_first(dup + i, _mm256_mul_ps(ds, a), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline float dot(const float* a, const float* b, int count) noexcept {
  __m256 sum = _mm256_setzero_ps();
  for (int i = 0; i < count; i += 8) {
    sum = _mm256_fmadd_ps(load_row(a, i, count), load_row(b, i, count), sum);
  }
  return sum_lanes(sum);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void softmax_gradient(const float* p, const float* dp, int count,
                                             float* ds) noexcept {
  const __m256 shift = _mm256_set1_ps(dot(p, dp, count));
  for (int i = 0; i < count; i += 8) {
    const __m256 moved = _mm256_sub_ps(load_row(dp, i, count), shift);
    store_first(ds + i, _mm256_mul_ps(load_row(p, i, count), moved), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void rms_norm_gradient(const float* x, const float* weight, const float* dy,
                                              int count, float eps, float* dx) noexcept {
  __m256 squares = _mm256_setzero_ps(), dots = squares;
  for (int i = 0; i < count; i += 8) {
    const __m256 a = load_row(x, i, count);
    const __m256 d = _mm256_mul_ps(load_row(weight, i, count), load_row(dy, i, count));
    squares = _mm256_fmadd_ps(a, a, squares), dots = _mm256_fmadd_ps(a, d, dots);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(count);
  const float inverse = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps)));
  const __m256 scale = _mm256_set1_ps(inverse);
  const __m256 pull =
      _mm256_set1_ps(inverse * inverse * inverse * (sum_lanes(dots) / static_cast<float>(count)));
  for (int i = 0; i < count; i += 8) {
    const __m256 d = _mm256_mul_ps(load_row(weight, i, count), load_row(dy, i, count));
    const __m256 pulled = _mm256_mul_ps(pull, load_row(x, i, count));
    store_first(dx + i, _mm256_fmsub_ps(scale, d, pulled), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void product(const float* a, const float* b, int count, float* y) noexcept {
  for (int i = 0; i < count; i += 8) {
    store_first(y + i, _mm256_mul_ps(load_row(a, i, count), load_row(b, i, count)), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void add_product(const float* a, const float* b, int count, float factor,
                                        float* sum) noexcept {
  const __m256 scale = _mm256_set1_ps(factor);
  for (int i = 0; i < count; i += 8) {
    const __m256 ab = _mm256_mul_ps(load_row(a, i, count), load_row(b, i, count));
    store_first(sum + i, _mm256_fmadd_ps(scale, ab, load_row(sum, i, count)), count - i);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline LogSum<float> log_sum(const float* x, int count) noexcept {
  __m256 largest = _mm256_set1_ps(x[0]);
  for (int i = 0; i < count; i += 8) {
    const __m256 present = _mm256_castsi256_ps(first_lanes(count - i));
    largest = _mm256_max_ps(largest, _mm256_blendv_ps(largest, load_row(x, i, count), present));
  }
  const float top = largest_lane(largest);
  const __m256 shift = _mm256_set1_ps(top);
  __m256 sum = _mm256_setzero_ps();
  for (int i = 0; i < count; i += 8) {
    const __m256 e = exponential(_mm256_sub_ps(load_row(x, i, count), shift));
    sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(first_lanes(count - i))));
  }
  return {top, sum_lanes(sum)};
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline float divergence(const float* teacher, const float* student, int count,
                                        float p_log, float q_log, float factor,
                                        float* gradient) noexcept {
  const __m256 pl = _mm256_set1_ps(p_log), ql = _mm256_set1_ps(q_log);
  const __m256 scale = _mm256_set1_ps(factor);
  __m256 kl = _mm256_setzero_ps();
  for (int i = 0; i < count; i += 8) {
    const __m256 lp = _mm256_sub_ps(load_row(teacher, i, count), pl);
    const __m256 lq = _mm256_sub_ps(load_row(student, i, count), ql);
    const __m256 p = exponential(lp), present = _mm256_castsi256_ps(first_lanes(count - i));
    kl = _mm256_add_ps(kl, _mm256_and_ps(present, _mm256_mul_ps(p, _mm256_sub_ps(lp, lq))));
    store_first(gradient + i, _mm256_mul_ps(scale, _mm256_sub_ps(exponential(lq), p)), count - i);
  }
  return sum_lanes(kl);
}

}  // namespace bisup::avx2
#endif
