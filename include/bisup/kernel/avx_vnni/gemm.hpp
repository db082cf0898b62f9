// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do processors with VNNI but without AVX-512 multiply packed weights by quantized activations?
// vpdpbusd in 256 bits takes the stored unsigned codes as they are; all else is as on AVX2.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx2/gemm_rows.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

namespace bisup::avx_vnni {

// Steps [Step, 8) of a tile: four codes each of 8 Halves rows against Tokens tokens.
template <int Bits, int Step, int Tokens, int Halves>
BISUP_COMPILED_FOR(BISUP_ISA_AVX_VNNI)
BISUP_ALWAYS_INLINE
    void multiply_steps(const std::uint8_t* const (&tiles)[Halves], const std::int8_t* a,
                        std::ptrdiff_t stride, __m256i (&dot)[Halves][Tokens]) noexcept {
  if constexpr (Step < panel16::steps) {
    __m256i u[Halves];
#pragma GCC unroll 8
    for (int h = 0; h < Halves; ++h) u[h] = avx2::unpack<Bits, Step>(tiles[h]);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      const __m256i b = avx2::broadcast_codes(a + t * stride + 4 * Step);
#pragma GCC unroll 8
      for (int h = 0; h < Halves; ++h) dot[h][t] = _mm256_dpbusd_avx_epi32(dot[h][t], u[h], b);
    }
    multiply_steps<Bits, Step + 1>(tiles, a, stride, dot);
  }
}

// Tokens tokens by 16 Panels rows, all columns.
// Limited by: the multiply ports; one vpdpbusd of 32 products on each of two a clock.
// Registers: Tokens * Halves integer sums (12 at most), 2 halves of codes, 1 broadcast; the float
// sums are touched once a group and live on the stack.
template <int Bits, bool Affine, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX_VNNI)
void gemm_tile(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y, int panel,
               int last_panel, int token) noexcept {
  constexpr int halves = 2 * Panels;
  avx2::HalfPanels<Bits, halves> rows(w, x, panel, last_panel);
  avx2::TokenRows tokens(x, token);
  __m256 sum[halves][Tokens] = {};
  for (int g = 0, left = rows.tiles_a_row; g < x.groups; ++g, left -= rows.group_tiles) {
    __m256i dot[halves][Tokens];
    avx2::start_dots<Affine>(rows, w, tokens, g, 1 << (Bits - 1), 0, dot);
    for (int i = left < rows.group_tiles ? left : rows.group_tiles; i > 0; --i) {
      multiply_steps<Bits, 0>(rows.tiles, tokens.codes, tokens.stride, dot);
      tokens.codes += panel16::tile_codes;
      rows.next_tile();
    }
    avx2::scale_dots(rows, w, tokens, g, dot, sum);
  }
  avx2::store_sums(w, tokens, y, panel, last_panel, token, sum);
}

// Tokens are cut into tiles of nearly equal height, 6 at most; fewer tokens take more panels at
// once. A token's result does not depend on the tile it is in.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX_VNNI)
void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
          GemmRange range) noexcept {
  constexpr int highest = 6;
  const int last = range.last_panel, tokens = range.last_token - range.first_token;
  const int heights = (tokens + highest - 1) / highest;
  const int step = tokens == 1 ? 4 : tokens == 2 ? 2 : 1;  // panels; 7 tokens are 4 + 3
  for (int p = range.first_panel; p < last; p += step) {
    for (int i = 0, token = range.first_token; i < heights; ++i) {
      const int height = (range.last_token - token + heights - i - 1) / (heights - i);
      switch (height) {
        case 1: gemm_tile<Bits, Affine, 1, 4>(w, x, y, p, last, token); break;
        case 2: gemm_tile<Bits, Affine, 2, 2>(w, x, y, p, last, token); break;
        case 3: gemm_tile<Bits, Affine, 3, 1>(w, x, y, p, last, token); break;
        case 4: gemm_tile<Bits, Affine, 4, 1>(w, x, y, p, last, token); break;
        case 5: gemm_tile<Bits, Affine, 5, 1>(w, x, y, p, last, token); break;
        default: gemm_tile<Bits, Affine, 6, 1>(w, x, y, p, last, token); break;
      }
      token += height;
    }
  }
}

}  // namespace bisup::avx_vnni
#endif
