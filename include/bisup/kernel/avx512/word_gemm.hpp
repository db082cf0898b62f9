// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI multiply packed tiles of words? As lanes/dense_gemm.hpp, but vpdpwssd sums
// two k where a float product sums one. The layout is that of kernel/word_gemm.hpp.
// Limit: as many vpdpwssd a cycle as float products, each of twice as many; 24 for 14 loads.
// Registers: 24 sums, 2 of weights, 1 broadcast.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/avx512/word_dot.hpp>
#include <bisup/kernel/float_gemm.hpp>
#include <bisup/kernel/word_gemm.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512_vnni {

using avx512::dense_panel_rows, avx512::first_lanes, avx512::magnitude_bits;

// Stores the scales of 16 blocks whose largest magnitudes these are; what an element is multiplied
// by.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE __m512 store_scales(__m512i largest, __mmask16 stored, float* out) noexcept {
  const __m512 levels = _mm512_set1_ps(product_levels), magnitude = _mm512_castsi512_ps(largest);
  // Not below the smallest: also what is no number.
  const __mmask16 present =
      _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(smallest_word_magnitude), _CMP_NLT_UQ);
  _mm512_mask_storeu_ps(out, stored, _mm512_maskz_div_ps(present, magnitude, levels));
  return _mm512_maskz_div_ps(present, levels, magnitude);
}

// One block of up to 16 lines that are rows.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void pack_row_words(const float* from, std::ptrdiff_t stride, int lines,
                                        int count, int width, __mmask16 stored,
                                        float* out) noexcept {
  alignas(64) std::int32_t largest[16] = {};
  for (int i = 0; i < lines; ++i) {
    const float* const row = from + i * stride;
    __m512i of_line = _mm512_setzero_si512();
    for (int k = 0; k < count; k += 16) {
      const __m512 x = _mm512_maskz_loadu_ps(first_lanes(count - k), row + k);
      of_line = _mm512_max_epi32(of_line, magnitude_bits(x));
    }
    largest[i] = _mm512_reduce_max_epi32(of_line);
  }
  alignas(64) float inverse[16];
  _mm512_store_ps(inverse, store_scales(_mm512_load_si512(largest), stored, out));
  float* const pairs = out + width;
  for (int k = 0; k < count; k += 32) {
    const __mmask16 low = first_lanes(count - k), high = first_lanes(count - k - 16);
    __m512 words[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const float* const at = from + (i < lines ? i * stride : 0) + k;
      const __m512 scale = _mm512_set1_ps(inverse[i]);
      const __m512 a = _mm512_maskz_loadu_ps(i < lines ? low : static_cast<__mmask16>(0), at);
      const __m512 b =
          _mm512_maskz_loadu_ps(i < lines ? high : static_cast<__mmask16>(0), at + (high ? 16 : 0));
      words[i] =
          _mm512_castsi512_ps(_mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(a, scale)),
                                                 _mm512_cvtps_epi32(_mm512_mul_ps(b, scale))));
    }
    avx512::transpose(words);
    // Packing goes by 128 bits: two pairs of a, two of b, and so on.
    const int left = (count - k + 1) / 2;
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      const int pair = j % 4 < 2 ? j / 4 * 2 + j % 4 : 8 + j / 4 * 2 + j % 4 - 2;
      if (pair < left) {
        _mm512_mask_storeu_ps(pairs + static_cast<std::ptrdiff_t>(k / 2 + pair) * width, stored,
                              words[j]);
      }
    }
  }
}

// One block of up to 16 lines that are columns.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void pack_column_words(const float* from, std::ptrdiff_t stride, int lines,
                                           int count, int width, __mmask16 stored,
                                           float* out) noexcept {
  const __mmask16 loaded = first_lanes(lines);
  __m512i largest = _mm512_setzero_si512();
  for (int k = 0; k < count; ++k) {
    const __m512 x = _mm512_maskz_loadu_ps(loaded, from + k * stride);
    largest = _mm512_max_epi32(largest, magnitude_bits(x));
  }
  const __m512 inverse = store_scales(largest, stored, out);
  float* pairs = out + width;
  for (int k = 0; k < count; k += 2, pairs += width) {
    const float* const at = from + k * stride;
    const bool second = k + 1 < count;
    const __m512 a = _mm512_maskz_loadu_ps(loaded, at);
    const __m512 b = _mm512_maskz_loadu_ps(second ? loaded : static_cast<__mmask16>(0),
                                           at + (second ? stride : 0));
    const __m512i of_first = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
    const __m512i of_second = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    const __m512i both =
        _mm512_mask_blend_epi16(0xaaaaaaaa, of_first, _mm512_slli_epi32(of_second, 16));
    _mm512_mask_storeu_ps(pairs, stored, _mm512_castsi512_ps(both));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void word_pack(const DenseOperand& from, int first, int lines, int first_k,
                                      int count, int width, float* out) noexcept {
  const auto* const data = static_cast<const float*>(from.data);
  const bool columns = from.lines_are_columns;
  for (int k = 0; k < count; k += word_block) {
    const int here = std::min(word_block, count - k);
    float* const to = out + static_cast<std::ptrdiff_t>(k) * width;
    for (int line = 0; line < width; line += 16) {
      const int present = std::clamp(lines - line, 0, 16);
      const int at = first + (present > 0 ? line : 0);
      const __mmask16 stored = first_lanes(width - line);
      if (columns) {
        pack_column_words(data + (first_k + k) * from.stride + at, from.stride, present, here,
                          width, stored, to + line);
      } else {
        pack_row_words(data + at * from.stride + first_k + k, from.stride, present, here, width,
                       stored, to + line);
      }
    }
  }
}

// Two k of a tile.
template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void multiply_pair(const float* x, const float* w, __m512i (&sum)[Tokens][2]) noexcept {
  const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 16);
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    const __m512i xt = _mm512_castps_si512(_mm512_set1_ps(x[t]));
    multiply_add(sum[t][0], w0, xt);
    multiply_add(sum[t][1], w1, xt);
  }
}

// Lines ahead are asked for in a loop of their own: with a branch in it g++ 12 copies sums about.
template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void multiply_word_tile(const float* x, const float* w, int count, float* y,
                                               std::ptrdiff_t y_stride, int tokens, int rows,
                                               bool accumulate, Ahead ahead) noexcept {
  const __mmask16 low = first_lanes(rows), high = first_lanes(rows - 16);
  for (int k = 0; k < count; k += word_block) {
    const int pairs = (std::min(word_block, count - k) + 1) / 2;
    const float* const x_scales = x + static_cast<std::ptrdiff_t>(k) * Tokens;
    const float* const w_scales = w + static_cast<std::ptrdiff_t>(k) * dense_panel_rows;
    const float* x_pair = x_scales + Tokens;
    const float* w_pair = w_scales + dense_panel_rows;
    __m512i sum[Tokens][2];
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) sum[t][0] = sum[t][1] = _mm512_setzero_si512();
    int p = 0;
    for (; ahead.bytes > 0 && p < pairs; ++p, x_pair += Tokens, w_pair += dense_panel_rows) {
      ahead.fetch();
      multiply_pair<Tokens>(x_pair, w_pair, sum);
    }
    for (; p < pairs; ++p, x_pair += Tokens, w_pair += dense_panel_rows)
      multiply_pair<Tokens>(x_pair, w_pair, sum);
    const __m512 scale0 = _mm512_load_ps(w_scales), scale1 = _mm512_load_ps(w_scales + 16);
    const bool read = accumulate || k > 0;
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) {
      const __mmask16 none = 0, here0 = t < tokens ? low : none, here1 = t < tokens ? high : none;
      float* const to = y + (t < tokens ? t * y_stride : 0);
      const __m512 xt = _mm512_set1_ps(x_scales[t]);
      const __m512 y0 = _mm512_maskz_loadu_ps(read ? here0 : none, to);
      const __m512 y1 = _mm512_maskz_loadu_ps(read ? here1 : none, to + (here1 ? 16 : 0));
      _mm512_mask_storeu_ps(
          to, here0, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][0]), _mm512_mul_ps(xt, scale0), y0));
      _mm512_mask_storeu_ps(
          to + (here1 ? 16 : 0), here1,
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][1]), _mm512_mul_ps(xt, scale1), y1));
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void word_tile(const float* x, int width, const float* w, int count,
                                      float* y, std::ptrdiff_t y_stride, int tokens, int rows,
                                      bool accumulate, Ahead ahead) noexcept {
  switch (width) {
    case 12:
      return multiply_word_tile<12>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    case 8: return multiply_word_tile<8>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    default:
      return multiply_word_tile<4>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  }
}

}  // namespace bisup::avx512_vnni
BISUP_INTRINSICS_END
#endif
