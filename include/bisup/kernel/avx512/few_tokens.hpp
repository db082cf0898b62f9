// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI multiply packed weights by one to three tokens, where what counts is how
// fast weights come from memory? One panel after another, so that codes are read in the order they
// lie in; codes within a byte stay where they are, and what their place multiplies is taken off the
// sum.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx512/code_dot.hpp>
#include <bisup/kernel/avx512/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// More tokens are limited by their products, and lose by it; so do two of codes of which a byte
// holds one only.
template <int Bits>
inline constexpr int few_tokens = Bits <= 4 ? 3 : 1;

// Sums of one panel and a group, by token and by the place of the code in its byte: field f is 2^(f
// Bits) times the sum. Steps in pieces are put together and are field 0.
template <int Bits, int Tokens>
using FieldSums = __m512i[8 / Bits][Tokens];

template <int Bits, int Step>
[[nodiscard]] constexpr int field_of() {
  constexpr Piece piece = piece_at<Bits>(Step, 0);
  return piece.length == Bits ? piece.from / Bits : 0;
}

// Steps [Step, 8) of a tile.
template <int Bits, int Step, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void multiply_fields(const std::uint8_t* tile, const std::int8_t* a, std::ptrdiff_t stride,
                         FieldSums<Bits, Tokens>& dot) noexcept {
  if constexpr (Step < panel16::steps) {
    constexpr int field = field_of<Bits, Step>();
    __m512i u;
    if constexpr (field > 0) {
      const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << Bits) - 1) << (field * Bits)));
      u = _mm512_and_si512(StoredTile{tile}[piece_at<Bits>(Step, 0).vector], mask);
    } else {
      u = unpack<Bits, Step>(tile);
    }
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
      add_products(dot[field][t], u, broadcast_codes(a + t * stride + 4 * Step));
    multiply_fields<Bits, Step + 1, Tokens>(tile, a, stride, dot);
  }
}

// Codes of so few bits are asked for a page ahead: what a processor expects by itself stops at the
// page's end, and few bits reach that end sooner than it has begun anew. Into the first level.
inline constexpr int bytes_ahead = 4096;
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void ask_for(const std::uint8_t* tile) noexcept {
#pragma GCC unroll 8
  for (int v = 0; v < Bits; ++v) __builtin_prefetch(tile + v * panel16::vector_bytes, 0, 3);
}

// Tokens tokens by the 16 rows of one panel, all columns; every sum as in gemm_tile, to the bit.
// Limited by: memory; 32 codes of 16 rows are 64 Bits bytes and, for one token and 2 bits, 8
// vpdpbusd, 8 masks and 8 broadcasts.
// Registers: 8 / Bits sums a token, its float sum, 1 code, 1 broadcast, masks.
// Lost, Zen 4, one token, of the read bandwidth (this: W4 .89, W3 .93, W2 .94; without asking ahead
// .86 .80 .67, and W8 .95): four panels at once with shifted codes .76 .66 .60, W8 .92; asking
// ahead for W8 .85, 1 or 8 KB ahead for the others, or into the second level .75 .77 .77.
template <int Bits, bool Affine, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void few_tokens_tile(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y, int panel,
                     int token) noexcept {
  const int row_tiles = x.padded_cols / panel16::tile_codes, groups = x.groups;
  const int group = w.shape.format.group;
  const int group_tiles = group == 0 ? row_tiles : group / panel16::tile_codes;
  constexpr int tile_size = Bits * panel16::vector_bytes, fields = 8 / Bits;
  const auto index = static_cast<std::size_t>(panel);
  const std::uint8_t* tile = w.codes + index * static_cast<std::size_t>(row_tiles) * tile_size;
  std::size_t scale_at = index * static_cast<std::size_t>(groups) * panel16::tile_rows;
  const std::ptrdiff_t stride = x.padded_cols;
  const std::int8_t* a = x.codes + token * stride;
  const std::int32_t* sums = x.sums + static_cast<std::ptrdiff_t>(token) * groups;
  const float* scales = x.scales + static_cast<std::ptrdiff_t>(token) * x.scale_groups;
  const bool token_scales = x.scale_groups == 1;

  __m512 sum[1][Tokens];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) sum[0][t] = _mm512_setzero_ps();
  int left = row_tiles;
  for (int g = 0; g < groups; ++g, left -= group_tiles) {
    FieldSums<Bits, Tokens> dot;
    const __m512i zero = Affine ? load_bytes(w.zeros + scale_at) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      dot[0][t] = less_zeros<Bits, Affine>(zero, sums[t * groups + g]);
#pragma GCC unroll 8
      for (int f = 1; f < fields; ++f) dot[f][t] = _mm512_setzero_si512();
    }
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      if constexpr (Bits <= 4) ask_for<Bits>(tile + bytes_ahead);
      multiply_fields<Bits, 0, Tokens>(tile, a, stride, dot);
      a += panel16::tile_codes;
      tile += tile_size;
    }
    const __m512 scale = load_scales(w.scales, w.shape.format.scale, scale_at);
    scale_at += panel16::tile_rows;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      __m512i total = dot[0][t];
#pragma GCC unroll 8
      for (int f = 1; f < fields; ++f) {
        const auto place = static_cast<unsigned>(f * Bits);
        total = _mm512_add_epi32(total, _mm512_srai_epi32(dot[f][t], place));
      }
      const __m512 both =
          token_scales ? scale : _mm512_mul_ps(scale, _mm512_set1_ps(scales[t * groups + g]));
      sum[0][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), both, sum[0][t]);
    }
  }
  store_sums(x, y, w.shape.rows, panel, panel + 1, token, sum);
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
