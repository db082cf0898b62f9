// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 turn packed weights into floats: whole rows, or on the fly for a few tokens of
// float activations?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx512/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// Sixteen codes (four steps) of the 16 rows of a panel, from byte lanes to rows: register i,
// 128-bit lane j is row 4 j + i.
template <int Bits, int FirstStep>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void unpack_rows(const std::uint8_t* tile, __m512i (&rows)[4]) noexcept {
  const __m512i a = unpack<Bits, FirstStep>(tile), b = unpack<Bits, FirstStep + 1>(tile);
  const __m512i c = unpack<Bits, FirstStep + 2>(tile), d = unpack<Bits, FirstStep + 3>(tile);
  const __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
  rows[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
  rows[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
  rows[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
  rows[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

struct PanelGroup {  // the parameters of one group of 16 rows
  alignas(64) float scale[16];
  alignas(64) std::int32_t zero[16];
};

template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void load_group(const PackedPanels& w, std::size_t at, PanelGroup& group) noexcept {
  _mm512_store_ps(group.scale, load_scales(w.scales, w.shape.format.scale, at));
  _mm512_store_si512(group.zero,
                     Affine ? load_zeros(w.zeros + at) : _mm512_set1_epi32(1 << (Bits - 1)));
}

// Sixteen codes of rows [first, last) of a panel; `out` is where row 0's would go.
template <int Bits, int FirstStep>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void store_rows(const std::uint8_t* tile, const PanelGroup& group, int first, int last,
                    int cols, float* out, std::ptrdiff_t stride) noexcept {
  __m512i rows[4];
  unpack_rows<Bits, FirstStep>(tile, rows);
  alignas(64) std::uint8_t codes[4][64];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) _mm512_store_si512(codes[i], rows[i]);
  const auto mask = static_cast<__mmask16>(row_mask(cols));
  for (int r = first; r < last; ++r) {
    const __m512i u = _mm512_cvtepu8_epi32(
        _mm_load_si128(reinterpret_cast<const __m128i*>(codes[r % 4] + r / 4 * 16)));
    const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(u, _mm512_set1_epi32(group.zero[r])));
    _mm512_mask_storeu_ps(out + r * stride, mask,
                          _mm512_mul_ps(value, _mm512_set1_ps(group.scale[r])));
  }
}

// Limited by: writing, four bytes for every code.
// Registers: four of codes, one row at a time.
// Not tried: a 16 x 16 transpose of floats (four times as many shuffles as of bytes).
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
void dequantize(const PackedPanels& w, int first_row, MatrixRef<float> out) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  const PackedShape& shape = w.shape;
  const int last_row = first_row + out.rows(), tiles = shape.col_tiles(), groups = shape.groups();
  const int group_tiles = shape.group_codes() / panel16::tile_codes, cols = shape.cols;
  const std::ptrdiff_t stride = out.stride();
  PanelGroup group;
  for (int panel = first_row / 16; panel * 16 < last_row; ++panel) {
    const int first = first_row > panel * 16 ? first_row - panel * 16 : 0;
    const int last = last_row - panel * 16 < 16 ? last_row - panel * 16 : 16;
    float* const at = out.data() + (panel * 16 - first_row) * stride;
    const std::uint8_t* tile =
        w.codes + static_cast<std::size_t>(panel) * static_cast<std::size_t>(tiles) * tile_size;
    for (int i = 0; i < tiles; ++i, tile += tile_size) {
      if (i % group_tiles == 0) {
        load_group<Bits, Affine>(w, static_cast<std::size_t>(panel * groups + i / group_tiles) * 16,
                                 group);
      }
      const int c = i * panel16::tile_codes;
      store_rows<Bits, 0>(tile, group, first, last, cols - c, at + c, stride);
      store_rows<Bits, 4>(tile, group, first, last, cols - c - 16, at + c + 16, stride);
    }
  }
}

// Code k of every row's four as a float times its scale. A code in the low bits of 2^23 is exact,
// so subtracting 2^23 + zero converts and centres at once.
template <int K>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 weight(__m512i u, __m512 zero, __m512 scale) noexcept {
  constexpr int and_or = 0xea;  // (u & 255) | 2^23
  const __m512i two23 = _mm512_set1_epi32(0x4b000000);
  if constexpr (K > 0) u = _mm512_srli_epi32(u, 8 * K);
  u = _mm512_ternarylogic_epi32(u, _mm512_set1_epi32(255), two23, and_or);
  return _mm512_mul_ps(_mm512_sub_ps(_mm512_castsi512_ps(u), zero), scale);
}

template <int K, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void multiply_column(const __m512i (&u)[Panels], const __m512 (&zero)[Panels],
                         const __m512 (&scale)[Panels], const float* x, std::ptrdiff_t stride,
                         __m512 (&sum)[Panels][Tokens]) noexcept {
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    const __m512 v = weight<K>(u[p], zero[p], scale[p]);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
      sum[p][t] = _mm512_fmadd_ps(v, _mm512_set1_ps(x[t * stride + K]), sum[p][t]);
  }
}

template <int Bits, int Step, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void multiply_columns(const std::uint8_t* const (&tiles)[Panels], const __m512 (&zero)[Panels],
                          const __m512 (&scale)[Panels], const float* x, std::ptrdiff_t stride,
                          __m512 (&sum)[Panels][Tokens]) noexcept {
  if constexpr (Step < panel16::steps) {
    __m512i u[Panels];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) u[p] = unpack<Bits, Step>(tiles[p]);
    multiply_column<0>(u, zero, scale, x, stride, sum);
    multiply_column<1>(u, zero, scale, x, stride, sum);
    multiply_column<2>(u, zero, scale, x, stride, sum);
    multiply_column<3>(u, zero, scale, x, stride, sum);
    multiply_columns<Bits, Step + 1>(tiles, zero, scale, x + 4, stride, sum);
  }
}

// Tokens tokens of floats, [Tokens, padded columns], by 16 Panels rows. Each output is one chain of
// fused multiply-adds over the columns in order, as in the dense product of dequantized weights.
// Limited by: four instructions that unpack for each multiply-add, with few tokens.
// Registers: Tokens * Panels sums, two parameters a panel, codes, 2 constants.
// Nothing else was tried.
template <int Bits, bool Affine, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
void weight_only_tile(const PackedPanels& w, const float* x, std::ptrdiff_t stride, float* y,
                      std::ptrdiff_t y_stride, int panel, int last_panel) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  const int tiles_a_row = w.shape.col_tiles(), groups = w.shape.groups();
  const int group_tiles = w.shape.group_codes() / panel16::tile_codes;
  const std::uint8_t* tiles[Panels];
  std::size_t at[Panels];
  __m512 sum[Panels][Tokens];
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    const auto index =
        static_cast<std::size_t>(panel + p < last_panel ? panel + p : last_panel - 1);
    tiles[p] = w.codes + index * static_cast<std::size_t>(tiles_a_row) * tile_size;
    at[p] = index * static_cast<std::size_t>(groups) * panel16::tile_rows;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) sum[p][t] = _mm512_setzero_ps();
  }
  for (int left = tiles_a_row; left > 0; left -= group_tiles) {
    __m512 zero[Panels], scale[Panels];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      zero[p] = _mm512_set1_ps(8388608.0f + (1 << (Bits - 1)));
      if constexpr (Affine) {
        zero[p] = _mm512_add_ps(_mm512_set1_ps(8388608.0f),
                                _mm512_cvtepi32_ps(load_zeros(w.zeros + at[p])));
      }
      scale[p] = load_scales(w.scales, w.shape.format.scale, at[p]);
      at[p] += panel16::tile_rows;
    }
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      multiply_columns<Bits, 0>(tiles, zero, scale, x, stride, sum);
      x += panel16::tile_codes;
#pragma GCC unroll 8
      for (int p = 0; p < Panels; ++p) tiles[p] += tile_size;
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    const int row = (panel + p) * panel16::tile_rows;
    const auto mask =
        static_cast<__mmask16>(row_mask(panel + p < last_panel ? w.shape.rows - row : 0));
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) _mm512_mask_storeu_ps(y + t * y_stride + row, mask, sum[p][t]);
  }
}

template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
void weight_only(const PackedPanels& w, MatrixRef<const float> x, MatrixRef<float> y,
                 GemmRange range) noexcept {
  const std::ptrdiff_t stride = x.stride(), y_stride = y.stride();
  const int last = range.last_panel;
  for (int t = range.first_token; t < range.last_token;) {
    const float* in = x.data() + t * stride;
    float* out = y.data() + t * y_stride;
    const int left = range.last_token - t, step = left == 1 ? 4 : 2;
    for (int p = range.first_panel; p < last; p += step) {
      switch (left) {
        case 1: weight_only_tile<Bits, Affine, 1, 4>(w, in, stride, out, y_stride, p, last); break;
        case 2: weight_only_tile<Bits, Affine, 2, 2>(w, in, stride, out, y_stride, p, last); break;
        case 3: weight_only_tile<Bits, Affine, 3, 2>(w, in, stride, out, y_stride, p, last); break;
        default: weight_only_tile<Bits, Affine, 4, 2>(w, in, stride, out, y_stride, p, last); break;
      }
    }
    t += left < 4 ? left : 4;
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
