// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 multiply packed weights by quantized activations? vpmaddubsw adds pairs of products
// in 16 bits; where the codes are small enough several steps are summed there before vpmaddwd
// widens.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx2/gemm_rows.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

namespace bisup::avx2 {

// Steps whose pair sums, each at most 2 (2^Bits - 1) 127, stay inside 16 bits. Codes of 8 bits are
// moved to -128 ... 127 first: |code| |a| twice is at most 2 * 128 * 127 = 32512.
template <int Bits>
inline constexpr int chained_steps = Bits == 8   ? 1
                                     : Bits == 6 ? 2
                                     : Bits == 5 ? 4
                                                 : 8;
static_assert(2 * 15 * 127 * 8 <= 32767 && 2 * 31 * 127 * 4 <= 32767 && 2 * 63 * 127 * 2 <= 32767);

// Hides a sum from g++'s reassociation, which would compute all products of a tile first and spill
// them (W4, old and new interleaved: 66 % of the vpmaddubsw peak against 74 to 82 %).
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void keep_order([[maybe_unused]] __m256i& sum) noexcept {
#if defined(__GNUC__)
  asm("" : "+x"(sum));
#endif
}

// Four codes of 8 Halves rows against Tokens tokens: 16-bit pair sums, begun or continued.
template <int Bits, int Step, int Tokens, int Halves>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void multiply_step(const std::uint8_t* const (&tiles)[Halves], const std::int8_t* a,
                       std::ptrdiff_t stride, __m256i (&pairs)[Halves][Tokens]) noexcept {
  __m256i u[Halves];
  [[maybe_unused]] __m256i magnitude[Halves];
#pragma GCC unroll 8
  for (int h = 0; h < Halves; ++h) {
    u[h] = unpack<Bits, Step>(tiles[h]);
    if constexpr (Bits == 8) {
      u[h] = _mm256_xor_si256(u[h], _mm256_set1_epi8(-128));
      magnitude[h] = _mm256_abs_epi8(u[h]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
    const __m256i b = broadcast_codes(a + t * stride + 4 * Step);
#pragma GCC unroll 8
    for (int h = 0; h < Halves; ++h) {
      __m256i product;
      if constexpr (Bits == 8) {
        product = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(b, u[h]));
      } else {
        product = _mm256_maddubs_epi16(u[h], b);
      }
      pairs[h][t] =
          Step % chained_steps<Bits> == 0 ? product : _mm256_add_epi16(pairs[h][t], product);
      keep_order(pairs[h][t]);
    }
  }
}

// Steps [Step, 8) of a tile; widens at the end of each chain.
template <int Bits, int Step, int Tokens, int Halves>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void multiply_steps(const std::uint8_t* const (&tiles)[Halves], const std::int8_t* a,
                        std::ptrdiff_t stride, __m256i (&pairs)[Halves][Tokens],
                        __m256i (&dot)[Halves][Tokens]) noexcept {
  if constexpr (Step < panel16::steps) {
    multiply_step<Bits, Step>(tiles, a, stride, pairs);
    if constexpr ((Step + 1) % chained_steps<Bits> == 0) {
#pragma GCC unroll 8
      for (int h = 0; h < Halves; ++h) {
#pragma GCC unroll 8
        for (int t = 0; t < Tokens; ++t) {
          dot[h][t] =
              _mm256_add_epi32(dot[h][t], _mm256_madd_epi16(pairs[h][t], _mm256_set1_epi16(1)));
          keep_order(dot[h][t]);
        }
      }
    }
    multiply_steps<Bits, Step + 1>(tiles, a, stride, pairs, dot);
  }
}

// Tokens tokens by 16 Panels rows, all columns.
// Limited by: the two ports of vpmaddubsw, 32 products each.
// Registers: Tokens * Halves 16-bit sums and 2 or 4 halves of codes; the 32-bit and the float sums
// are touched once a tile and once a group and live on the stack.
// Not tried: 6 tokens by one panel (12 sums leave no register for the codes).
template <int Bits, bool Affine, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
void gemm_tile(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y, int panel,
               int last_panel, int token) noexcept {
  constexpr int halves = 2 * Panels;
  constexpr int offset = Bits == 8 ? 128 : 0;  // what multiply_step has subtracted from the codes
  HalfPanels<Bits, halves> rows(w, x, panel, last_panel);
  TokenRows tokens(x, token);
  __m256 sum[halves][Tokens] = {};
  for (int g = 0, left = rows.tiles_a_row; g < x.groups; ++g, left -= rows.group_tiles) {
    __m256i dot[halves][Tokens], pairs[halves][Tokens] = {};
    start_dots<Affine>(rows, w, tokens, g, (1 << (Bits - 1)) - offset, offset, dot);
    for (int i = left < rows.group_tiles ? left : rows.group_tiles; i > 0; --i) {
      multiply_steps<Bits, 0>(rows.tiles, tokens.codes, tokens.stride, pairs, dot);
      tokens.codes += panel16::tile_codes;
      rows.next_tile();
    }
    scale_dots(rows, w, tokens, g, dot, sum);
  }
  store_sums(w, tokens, y, panel, last_panel, token, sum);
}

// Tokens are cut into tiles of nearly equal height, 4 at most; one token takes more panels at once.
// A token's result does not depend on the tile it is in.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
          GemmRange range) noexcept {
  constexpr int highest = 4;
  const int last = range.last_panel, tokens = range.last_token - range.first_token;
  const int heights = (tokens + highest - 1) / highest;
  const int step = tokens == 1 ? 2 : 1;  // panels
  for (int p = range.first_panel; p < last; p += step) {
    for (int i = 0, token = range.first_token; i < heights; ++i) {
      const int height = (range.last_token - token + heights - i - 1) / (heights - i);
      switch (height) {
        case 1: gemm_tile<Bits, Affine, 1, 2>(w, x, y, p, last, token); break;
        case 2: gemm_tile<Bits, Affine, 2, 1>(w, x, y, p, last, token); break;
        case 3: gemm_tile<Bits, Affine, 3, 1>(w, x, y, p, last, token); break;
        default: gemm_tile<Bits, Affine, 4, 1>(w, x, y, p, last, token); break;
      }
      token += height;
    }
  }
}

}  // namespace bisup::avx2
#endif
