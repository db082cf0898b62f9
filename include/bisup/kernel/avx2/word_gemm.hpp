// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 multiply packed tiles of words? As lanes/dense_gemm.hpp, but vpmaddwd and vpaddd
// take two k where one multiply-add of floats takes one. The layout is that of
// kernel/word_gemm.hpp.
// Limit: by their ports Zen 3 begins two vpmaddwd and two vpaddd a cycle, which is twice the k of
// its two multiply-adds; Intel's cores three of them together: 1.5 times.
// Registers: 12 sums, 2 of weights, 1 broadcast, 1 product: all sixteen.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/float_gemm.hpp>
#include <bisup/kernel/word_gemm.hpp>

namespace bisup::avx2 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i magnitude_bits(__m256 x) noexcept {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i levels_of(__m256 x, __m256 inverse) noexcept {
  return _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
}

// Stores the scales of 8 blocks whose largest magnitudes these are; what an element is multiplied
// by.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 store_scales(__m256i largest, int stored, float* out) noexcept {
  const __m256 levels = _mm256_set1_ps(product_levels), magnitude = _mm256_castsi256_ps(largest);
  // Not below the smallest: also what is no number.
  const __m256 present =
      _mm256_cmp_ps(magnitude, _mm256_set1_ps(smallest_word_magnitude), _CMP_NLT_UQ);
  store_first(out, _mm256_and_ps(present, _mm256_div_ps(magnitude, levels)), stored);
  return _mm256_and_ps(present, _mm256_div_ps(levels, magnitude));
}

// One block of up to 8 lines that are rows.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void pack_row_words(const float* from, std::ptrdiff_t stride, int lines,
                                        int count, int width, int stored, float* out) noexcept {
  alignas(32) std::int32_t largest[8] = {};
  for (int i = 0; i < lines; ++i) {
    __m256i of_line = _mm256_setzero_si256();
    for (int k = 0; k < count; k += 8) {
      const __m256 x = load_floats<DType::f32>(from + i * stride, k, count - k);
      of_line = _mm256_max_epi32(of_line, magnitude_bits(x));
    }
    alignas(32) std::int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), of_line);
    for (const std::int32_t lane : lanes) largest[i] = std::max(largest[i], lane);
  }
  alignas(32) float inverse[8];
  _mm256_store_ps(
      inverse,
      store_scales(_mm256_load_si256(reinterpret_cast<const __m256i*>(largest)), stored, out));
  float* const pairs = out + width;
  for (int k = 0; k < count; k += 16) {
    __m256 words[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      words[i] = _mm256_setzero_ps();
      if (i >= lines) continue;
      const float* const row = from + i * stride;
      const __m256 scale = _mm256_set1_ps(inverse[i]);
      const __m256i a = levels_of(load_floats<DType::f32>(row, k, count - k), scale);
      const __m256i b = levels_of(load_floats<DType::f32>(row, k + 8, count - k - 8), scale);
      words[i] = _mm256_castsi256_ps(_mm256_packs_epi32(a, b));
    }
    transpose(words);
    // Packing goes by 128 bits: two pairs of a, two of b, and so on.
    const int left = (count - k + 1) / 2;
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const int pair = j % 4 < 2 ? j / 4 * 2 + j % 4 : 4 + j / 4 * 2 + j % 4 - 2;
      if (pair < left)
        store_first(pairs + static_cast<std::ptrdiff_t>(k / 2 + pair) * width, words[j], stored);
    }
  }
}

// One block of up to 8 lines that are columns.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void pack_column_words(const float* from, std::ptrdiff_t stride, int lines,
                                           int count, int width, int stored, float* out) noexcept {
  __m256i largest = _mm256_setzero_si256();
  for (int k = 0; k < count; ++k) {
    const __m256 x = load_floats<DType::f32>(from + k * stride, 0, lines);
    largest = _mm256_max_epi32(largest, magnitude_bits(x));
  }
  const __m256 inverse = store_scales(largest, stored, out);
  float* pairs = out + width;
  for (int k = 0; k < count; k += 2, pairs += width) {
    const float* const at = from + k * stride;
    const __m256i first = levels_of(load_floats<DType::f32>(at, 0, lines), inverse);
    __m256i second = _mm256_setzero_si256();
    if (k + 1 < count) second = levels_of(load_floats<DType::f32>(at + stride, 0, lines), inverse);
    const __m256i both = _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
    store_first(pairs, _mm256_castsi256_ps(both), stored);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void word_pack(const DenseOperand& from, int first, int lines, int first_k,
                                      int count, int width, float* out) noexcept {
  const auto* const data = static_cast<const float*>(from.data);
  for (int k = 0; k < count; k += word_block) {
    const int here = std::min(word_block, count - k);
    for (int line = 0; line < width; line += 8) {
      const int present = std::clamp(lines - line, 0, 8), stored = std::min(8, width - line);
      const int at = first + (present > 0 ? line : 0);
      float* const to = out + static_cast<std::ptrdiff_t>(k) * width + line;
      if (from.lines_are_columns) {
        pack_column_words(data + (first_k + k) * from.stride + at, from.stride, present, here,
                          width, stored, to);
      } else {
        pack_row_words(data + at * from.stride + first_k + k, from.stride, present, here, width,
                       stored, to);
      }
    }
  }
}

// Two k of a tile.
template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void multiply_pair(const float* x, const float* w, __m256i (&sum)[Tokens][2]) noexcept {
  const __m256i w0 = _mm256_castps_si256(_mm256_load_ps(w));
  const __m256i w1 = _mm256_castps_si256(_mm256_load_ps(w + 8));
#pragma GCC unroll 6
  for (int t = 0; t < Tokens; ++t) {
    const __m256i xt = _mm256_castps_si256(_mm256_broadcast_ss(x + t));
    sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(w0, xt));
    sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(w1, xt));
  }
}

template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void multiply_word_tile(const float* x, const float* w, int count, float* y,
                                               std::ptrdiff_t y_stride, int tokens, int rows,
                                               bool accumulate, Ahead ahead) noexcept {
  for (int k = 0; k < count; k += word_block) {
    const int pairs = (std::min(word_block, count - k) + 1) / 2;
    const float* const x_scales = x + static_cast<std::ptrdiff_t>(k) * Tokens;
    const float* const w_scales = w + static_cast<std::ptrdiff_t>(k) * dense_panel_rows;
    const float* x_pair = x_scales + Tokens;
    const float* w_pair = w_scales + dense_panel_rows;
    __m256i sum[Tokens][2];
#pragma GCC unroll 6
    for (int t = 0; t < Tokens; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    int p = 0;
    for (; ahead.bytes > 0 && p < pairs; ++p, x_pair += Tokens, w_pair += dense_panel_rows) {
      ahead.fetch();
      multiply_pair<Tokens>(x_pair, w_pair, sum);
    }
    for (; p < pairs; ++p, x_pair += Tokens, w_pair += dense_panel_rows)
      multiply_pair<Tokens>(x_pair, w_pair, sum);
    const bool read = accumulate || k > 0;
    for (int half = 0; half < 2; ++half) {
      const int left = rows - 8 * half;
      if (left <= 0) break;
      const __m256 scale = _mm256_load_ps(w_scales + 8 * half);
#pragma GCC unroll 6
      for (int t = 0; t < Tokens; ++t) {
        if (t >= tokens) break;
        float* const to = y + t * y_stride + 8 * half;
        const __m256 before = read ? load_floats<DType::f32>(to, 0, left) : _mm256_setzero_ps();
        const __m256 factor = _mm256_mul_ps(_mm256_set1_ps(x_scales[t]), scale);
        const __m256i dot = half == 0 ? sum[t][0] : sum[t][1];
        store_first(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, before), left);
      }
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void word_tile(const float* x, int width, const float* w, int count,
                                      float* y, std::ptrdiff_t y_stride, int tokens, int rows,
                                      bool accumulate, Ahead ahead) noexcept {
  switch (width) {
    case 6: return multiply_word_tile<6>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    case 4: return multiply_word_tile<4>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    default:
      return multiply_word_tile<2>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  }
}

}  // namespace bisup::avx2
#endif
