// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 add what few columns beside packed weights make? A vpmaddwd takes a pair of columns
// of 8 rows.
// Limit: three instructions a pair (widen the codes, multiply, add) and token; the first is shared.
// Registers: 2 Panels Tokens sums, Tokens broadcasts, 1 of codes, 1 product.
// Lost: keepers as a tile of panel16, the branch's second factor in floats: kernel/avx512.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/narrow_gemm.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx2 {

// Tokens tokens by Panels panels, of which those from last_panel on are read as the last.
template <int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void narrow_tile(const NarrowView& w, const WordsView& x, MatrixRef<float> y,
                                     int panel, int last_panel, int token) noexcept {
  constexpr int halves = 2 * Panels;
  const std::int8_t* codes[Panels];
  __m256i dot[halves][Tokens];
#pragma GCC unroll 8
  for (int h = 0; h < halves; ++h) {
    codes[h / 2] = w.panel(panel + h / 2 < last_panel ? panel + h / 2 : last_panel - 1);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) dot[h][t] = _mm256_setzero_si256();
  }
  const std::int16_t* words = x.row(token);
  for (int i = 0; i < w.pairs; ++i, words += 2) {
    __m256i b[Tokens];
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      std::int32_t pair;
      std::memcpy(&pair, words + static_cast<std::ptrdiff_t>(t) * 2 * x.pairs, sizeof pair);
      b[t] = _mm256_set1_epi32(pair);
    }
#pragma GCC unroll 8
    for (int h = 0; h < halves; ++h) {
      const __m256i u = _mm256_cvtepi8_epi16(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes[h / 2] + h % 2 * 2 * lane_count)));
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t)
        dot[h][t] = _mm256_add_epi32(dot[h][t], _mm256_madd_epi16(u, b[t]));
    }
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) codes[p] += NarrowView::pair_size;
  }
  const int first_row = panel * panel16::tile_rows;
  const float* const scales = w.scales == nullptr ? nullptr : w.scales + first_row;
  const int end = last_panel * panel16::tile_rows, there = end < w.rows ? end : w.rows;
  const int left = there - first_row;
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
    float* const to = y.data() + (token + t) * y.stride() + first_row;
    const __m256 scale = _mm256_set1_ps(x.scales[token + t]);
    if (left >= lane_count * halves && scales == nullptr) {
#pragma GCC unroll 8
      for (int h = 0; h < halves; ++h) {
        _mm256_storeu_ps(to + lane_count * h,
                         _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[h][t]), scale,
                                         _mm256_loadu_ps(to + lane_count * h)));
      }
      continue;
    }
#pragma GCC unroll 8
    for (int h = 0; h < halves; ++h) {
      const int here = left - lane_count * h;
      if (here <= 0) continue;
      const __m256 both = scales == nullptr
                              ? scale
                              : _mm256_mul_ps(scale, _mm256_loadu_ps(scales + lane_count * h));
      const __m256 before = load_floats<DType::f32>(to, lane_count * h, here);
      store_first(to + lane_count * h, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[h][t]), both, before),
                  here);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void narrow_gemm(const NarrowView& w, const WordsView& x, MatrixRef<float> y,
                                        GemmRange range) noexcept {
  const int last = range.last_panel;
  if (range.last_token - range.first_token == 1) {
    for (int p = range.first_panel; p < last; p += 4)
      narrow_tile<1, 4>(w, x, y, p, last, range.first_token);
    return;
  }
  for (int p = range.first_panel; p < last; ++p) {
    int token = range.first_token;
    for (; token + 4 <= range.last_token; token += 4) narrow_tile<4, 1>(w, x, y, p, last, token);
    for (; token < range.last_token; ++token) narrow_tile<1, 1>(w, x, y, p, last, token);
  }
}

}  // namespace bisup::avx2
BISUP_INTRINSICS_END
#endif
