// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 round rows to words and multiply them by few rows of codes? A vpmaddwd takes 16
// columns; codes are widened once for two tokens.
// Limit: for one token three instructions for 16 columns, for two five.
// Registers: 8 sums, 2 of words, 1 of codes, 1 product.
// Lost: the same in floats, two conversions and a multiply-add for 8 columns.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/word_rows.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx2 {

template <bool Factors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256
    times_factors(const float* x, const float* factors, int at, int count) noexcept {
  const __m256 v = load_floats<DType::f32>(x, at, count);
  if constexpr (!Factors) return v;
  return _mm256_mul_ps(v, load_floats<DType::f32>(factors, at, count));
}

// Magnitudes of eight numbers as integers.
template <bool Factors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i
    bits_of(const float* x, const float* factors, int at, int count) noexcept {
  const __m256i bits = _mm256_castps_si256(times_factors<Factors>(x, factors, at, count));
  return _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
}
template <bool Factors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m128i
    words_of(const float* x, const float* factors, int at, int count, __m256 inverse) noexcept {
  const __m256i eight =
      _mm256_cvtps_epi32(_mm256_mul_ps(times_factors<Factors>(x, factors, at, count), inverse));
  return _mm_packs_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
}

template <bool Factors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float round_row(const float* x, const float* factors, int cols, int levels,
                                    std::int16_t* words) noexcept {
  const int whole = cols / 8 * 8, rest = cols - whole;
  __m256i largest = _mm256_setzero_si256();
  for (int c = 0; c < whole; c += 8)
    largest = _mm256_max_epi32(largest, bits_of<Factors>(x, factors, c, 8));
  if (rest > 0) largest = _mm256_max_epi32(largest, bits_of<Factors>(x, factors, whole, rest));
  alignas(32) std::int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  const WordRounding rounding = WordRounding::of(*std::max_element(lanes, lanes + 8), levels);
  if (rounding.inverse == 0) {
    std::fill_n(words, cols, std::int16_t{0});
    return rounding.scale;
  }
  const __m256 inverse = _mm256_set1_ps(rounding.inverse);
  for (int c = 0; c < whole; c += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words + c),
                     words_of<Factors>(x, factors, c, 8, inverse));
  }
  if (rest > 0) {
    const __m128i last = words_of<Factors>(x, factors, whole, rest, inverse);
    std::memcpy(words + whole, &last, static_cast<std::size_t>(rest) * sizeof *words);
  }
  return rounding.scale;
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline float round_words(const float* x, const float* factors, int cols, int levels,
                                         std::int16_t* words) noexcept {
  return factors == nullptr ? round_row<false>(x, factors, cols, levels, words)
                            : round_row<true>(x, factors, cols, levels, words);
}

// The first `count` of 16 elements, then zeros; reads no others.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i load_words(const std::int16_t* from, int count) noexcept {
  if (count >= 16) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  alignas(32) std::int16_t padded[16] = {};
  std::memcpy(padded, from, static_cast<std::size_t>(count) * sizeof *from);
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(padded));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i load_codes(const std::int8_t* from, int count) noexcept {
  if (count >= 16)
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  alignas(16) std::int8_t padded[16] = {};
  std::memcpy(padded, from, static_cast<std::size_t>(count));
  return _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(padded)));
}

template <int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void code_dots_step(const std::int8_t* codes, std::ptrdiff_t stride,
                                        const std::int16_t* words, std::ptrdiff_t word_stride,
                                        int count, __m256i (&sum)[Rows][Tokens]) noexcept {
  __m256i b[Tokens];
#pragma GCC unroll 2
  for (int t = 0; t < Tokens; ++t) b[t] = load_words(words + t * word_stride, count);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const __m256i u = load_codes(codes + r * stride, count);
#pragma GCC unroll 2
    for (int t = 0; t < Tokens; ++t)
      sum[r][t] = _mm256_add_epi32(sum[r][t], _mm256_madd_epi16(u, b[t]));
  }
}

template <int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void code_dots_tile(const CodeDots& d, int row, int token) noexcept {
  const std::int8_t* const codes = d.codes + row * d.stride;
  const std::int16_t* const words = d.words + token * d.word_stride;
  float* const y = d.y + token * d.y_stride + row;
  for (int first = 0; first < d.cols; first += code_dot_block) {
    const int last = std::min(d.cols, first + code_dot_block);
    __m256i sum[Rows][Tokens];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) sum[r][t] = _mm256_setzero_si256();
    }
    int c = first;
    for (; c + 16 <= last; c += 16)
      code_dots_step<Rows, Tokens>(codes + c, d.stride, words + c, d.word_stride, 16, sum);
    if (c < last)
      code_dots_step<Rows, Tokens>(codes + c, d.stride, words + c, d.word_stride, last - c, sum);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) {
        const float dot = d.scales[token + t] * sum_lanes(_mm256_cvtepi32_ps(sum[r][t]));
        float& to = y[t * d.y_stride + r];
        to = first == 0 ? dot : to + dot;
      }
    }
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void code_dots_rows(const CodeDots& d, int row) noexcept {
  int t = 0;
  for (; t + 2 <= d.tokens; t += 2) code_dots_tile<Rows, 2>(d, row, t);
  if (t < d.tokens) code_dots_tile<Rows, 1>(d, row, t);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void code_dots(const CodeDots& d) noexcept {
  int r = 0;
  if (d.tokens == 1) {
    for (; r + 8 <= d.rows; r += 8) code_dots_tile<8, 1>(d, r, 0);
  }
  for (; r + 4 <= d.rows; r += 4) code_dots_rows<4>(d, r);
  for (; r < d.rows; ++r) code_dots_rows<1>(d, r);
}

}  // namespace bisup::avx2
BISUP_INTRINSICS_END
#endif
