// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI add what few columns beside packed weights make? A vpdpwssd takes a pair of
// columns of 16 rows.
// Limit: the multiply ports; 32 keepers of 6 tokens by 2 panels are 192 vpdpwssd beside 32 to widen
// the codes and 60 to scale and to add to y.
// Registers: Tokens * Panels sums, Panels codes, 1 broadcast.
// Lost: keepers as a tile of panel16 in a second pass over y, the branch's second factor in floats
// in a third: in a prefill of SmolLM2 by bisup_atom .36 of the time of the packed tiles, where this
// takes .18 (perf).

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/avx512/word_dot.hpp>
#include <bisup/kernel/even_tiles.hpp>
#include <bisup/kernel/narrow_gemm.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512_vnni {

// Panels from last_panel on do not exist: they are read as the last and not stored.
template <int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void narrow_tile(const NarrowView& w, const WordsView& x, MatrixRef<float> y, int panel,
                 int last_panel, int token) noexcept {
  const std::int8_t* codes[Panels];
  __m512i dot[Panels][Tokens];
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    codes[p] = w.panel(panel + p < last_panel ? panel + p : last_panel - 1);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) dot[p][t] = _mm512_setzero_si512();
  }
  const std::int16_t* words = x.row(token);
  for (int i = 0; i < w.pairs; ++i, words += 2) {
    __m512i u[Panels];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      u[p] = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes[p])));
      codes[p] += NarrowView::pair_size;
    }
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      std::int32_t pair;
      std::memcpy(&pair, words + static_cast<std::ptrdiff_t>(t) * 2 * x.pairs, sizeof pair);
      const __m512i b = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int p = 0; p < Panels; ++p) multiply_add(dot[p][t], u[p], b);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    if (panel + p >= last_panel) continue;
    const int row = (panel + p) * panel16::tile_rows;
    const __mmask16 mask = avx512::first_lanes(w.rows - row);
    const __m512 scale = w.scales == nullptr ? _mm512_set1_ps(1) : _mm512_loadu_ps(w.scales + row);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      float* const at = y.data() + (token + t) * y.stride() + row;
      const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[token + t]));
      const __m512 products = _mm512_cvtepi32_ps(dot[p][t]);
      if (mask == 0xffff) {
        _mm512_storeu_ps(at, _mm512_fmadd_ps(products, both, _mm512_loadu_ps(at)));
      } else {
        const __m512 before = _mm512_maskz_loadu_ps(mask, at);
        _mm512_mask_storeu_ps(at, mask, _mm512_fmadd_ps(products, both, before));
      }
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void narrow_gemm(const NarrowView& w, const WordsView& x, MatrixRef<float> y,
                                        GemmRange range) noexcept {
  const int last = range.last_panel, tokens = range.last_token - range.first_token;
  const int step = tokens == 1 ? 4 : 2;  // panels
  for (int p = range.first_panel; p < last; p += step) {
    each_tile(range.first_token, range.last_token, [&]<int Tokens>(int token) {
      constexpr int panels = Tokens == 1 ? 4 : 2;
      narrow_tile<Tokens, panels>(w, x, y, p, last, token);
    });
  }
}

}  // namespace bisup::avx512_vnni
BISUP_INTRINSICS_END
#endif
