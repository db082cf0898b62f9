// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI round rows to words and multiply them by few rows of codes? A vpdpwssd
// takes 32 columns; codes are widened once for four tokens. Limit: the multiply ports, one of 8 (4
// rows, 4 tokens: 16 vpdpwssd beside 4 to widen and 8 loads). Registers: up to 16 sums, 4 of words,
// 1 of codes. Lost: the same in floats, two conversions and a multiply-add for 16 columns.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/avx512/word_dot.hpp>
#include <bisup/kernel/word_rows.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512_vnni {

template <bool Factors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE __m512
    times_factors(const float* x, const float* factors, int at, __mmask16 mask) noexcept {
  const __m512 v = _mm512_maskz_loadu_ps(mask, x + at);
  if constexpr (!Factors) return v;
  return _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, factors + at));
}

template <bool Factors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE float round_row(const float* x, const float* factors, int cols, int levels,
                                    std::int16_t* words) noexcept {
  __m512i largest = _mm512_setzero_si512();
  for (int c = 0; c < cols; c += 16) {
    const __m512 v = times_factors<Factors>(x, factors, c, avx512::first_lanes(cols - c));
    largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(v)));
  }
  const WordRounding rounding = WordRounding::of(_mm512_reduce_max_epi32(largest), levels);
  const __m512 inverse = _mm512_set1_ps(rounding.inverse);
  const __mmask16 some = avx512::first_lanes(rounding.inverse == 0 ? 0 : 16);
  for (int c = 0; c < cols; c += 16) {
    const __mmask16 mask = avx512::first_lanes(cols - c);
    const __m512 v = _mm512_mul_ps(times_factors<Factors>(x, factors, c, mask), inverse);
    const __m512i rounded = _mm512_maskz_cvtps_epi32(some, v);
    _mm256_mask_storeu_epi16(words + c, mask, _mm512_maskz_cvtepi32_epi16(0xffff, rounded));
  }
  return rounding.scale;
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline float round_words(const float* x, const float* factors, int cols, int levels,
                                         std::int16_t* words) noexcept {
  return factors == nullptr ? round_row<false>(x, factors, cols, levels, words)
                            : round_row<true>(x, factors, cols, levels, words);
}

template <int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void code_dots_tile(const CodeDots& d, int row, int token) noexcept {
  const std::int8_t* const codes = d.codes + row * d.stride;
  const std::int16_t* const words = d.words + token * d.word_stride;
  float* const y = d.y + token * d.y_stride + row;
  for (int first = 0; first < d.cols; first += code_dot_block) {
    const int last = std::min(d.cols, first + code_dot_block);
    __m512i sum[Rows][Tokens];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) sum[r][t] = _mm512_setzero_si512();
    }
    for (int c = first; c < last; c += 32) {
      const __mmask32 mask = last - c >= 32 ? ~__mmask32{0} : (__mmask32{1} << (last - c)) - 1;
      __m512i b[Tokens];
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t)
        b[t] = _mm512_maskz_loadu_epi16(mask, words + t * d.word_stride + c);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m512i u =
            _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, codes + r * d.stride + c));
#pragma GCC unroll 4
        for (int t = 0; t < Tokens; ++t) multiply_add(sum[r][t], u, b[t]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) {
        const float dot = d.scales[token + t] * avx512::sum_lanes(_mm512_cvtepi32_ps(sum[r][t]));
        float& to = y[t * d.y_stride + r];
        to = first == 0 ? dot : to + dot;
      }
    }
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void code_dots_rows(const CodeDots& d, int row) noexcept {
  int t = 0;
  for (; t + 4 <= d.tokens; t += 4) code_dots_tile<Rows, 4>(d, row, t);
  for (; t < d.tokens; ++t) code_dots_tile<Rows, 1>(d, row, t);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void code_dots(const CodeDots& d) noexcept {
  int r = 0;
  if (d.tokens == 1) {
    for (; r + 8 <= d.rows; r += 8) code_dots_tile<8, 1>(d, r, 0);
  }
  for (; r + 4 <= d.rows; r += 4) code_dots_rows<4>(d, r);
  for (; r < d.rows; ++r) code_dots_rows<1>(d, r);
}

}  // namespace bisup::avx512_vnni
BISUP_INTRINSICS_END
#endif
