// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 turn packed weights into floats: whole rows, or on the fly for a few tokens of
// float activations?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

namespace bisup::avx2 {

struct PanelGroup {  // the parameters of one group of 16 rows
  alignas(32) float scale[16];
  alignas(32) std::int32_t zero[16];
};

template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void load_group(const PackedPanels& w, std::size_t at, PanelGroup& group) noexcept {
#pragma GCC unroll 2
  for (int h = 0; h < 16; h += half_rows, at += half_rows) {
    _mm256_store_ps(group.scale + h, load_scales(w.scales, w.shape.format.scale, at));
    __m256i zero = _mm256_set1_epi32(1 << (Bits - 1));
    if constexpr (Affine) zero = load_zeros(w.zeros + at);
    _mm256_store_si256(reinterpret_cast<__m256i*>(group.zero + h), zero);
  }
}

// Sixteen codes (four steps) of one half of a panel, from byte lanes to rows: codes[i] holds row i
// in its first half and row 4 + i in its second.
template <int Bits, int FirstStep>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void unpack_rows(const std::uint8_t* half, std::uint8_t (&codes)[4][32]) noexcept {
  const __m256i a = unpack<Bits, FirstStep>(half), b = unpack<Bits, FirstStep + 1>(half);
  const __m256i c = unpack<Bits, FirstStep + 2>(half), d = unpack<Bits, FirstStep + 3>(half);
  const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
  const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
  _mm256_store_si256(reinterpret_cast<__m256i*>(codes[0]), _mm256_unpacklo_epi64(ab_low, cd_low));
  _mm256_store_si256(reinterpret_cast<__m256i*>(codes[1]), _mm256_unpackhi_epi64(ab_low, cd_low));
  _mm256_store_si256(reinterpret_cast<__m256i*>(codes[2]), _mm256_unpacklo_epi64(ab_high, cd_high));
  _mm256_store_si256(reinterpret_cast<__m256i*>(codes[3]), _mm256_unpackhi_epi64(ab_high, cd_high));
}

// Sixteen codes of rows [first, last) of a panel; `out` is where row 0's would go.
template <int Bits, int FirstStep>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void store_rows(const std::uint8_t* tile, const PanelGroup& group, int first, int last,
                    int cols, float* out, std::ptrdiff_t stride) noexcept {
  alignas(32) std::uint8_t codes[2][4][32];
  unpack_rows<Bits, FirstStep>(tile, codes[0]);
  unpack_rows<Bits, FirstStep>(tile + half_bytes, codes[1]);
  for (int r = first; r < last; ++r) {
    const std::uint8_t* at = codes[r / 8][r % 4] + r % 8 / 4 * 16;
    const __m256i zero = _mm256_set1_epi32(group.zero[r]);
    const __m256 scale = _mm256_set1_ps(group.scale[r]);
#pragma GCC unroll 2
    for (int c = 0; c < 16; c += 8) {
      const __m256 value = _mm256_cvtepi32_ps(_mm256_sub_epi32(load_zeros(at + c), zero));
      if (c < cols) store_first(out + r * stride + c, _mm256_mul_ps(value, scale), cols - c);
    }
  }
}

// Limited by: writing, four bytes for every code.
// Registers: eight of codes, one row at a time.
// Nothing else was tried.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
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

template <int K, int Tokens, int Halves>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void multiply_column(const __m256i (&u)[Halves], const __m256i (&zero)[Halves],
                         const __m256 (&scale)[Halves], const float* x, std::ptrdiff_t stride,
                         __m256 (&sum)[Halves][Tokens]) noexcept {
#pragma GCC unroll 8
  for (int h = 0; h < Halves; ++h) {
    __m256i code = K > 0 ? _mm256_srli_epi32(u[h], 8 * K) : u[h];
    if constexpr (K < 3) code = _mm256_and_si256(code, _mm256_set1_epi32(255));
    const __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero[h])), scale[h]);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
      sum[h][t] = _mm256_fmadd_ps(v, _mm256_set1_ps(x[t * stride + K]), sum[h][t]);
  }
}

template <int Bits, int Step, int Tokens, int Halves>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void multiply_columns(const std::uint8_t* const (&tiles)[Halves], const __m256i (&zero)[Halves],
                          const __m256 (&scale)[Halves], const float* x, std::ptrdiff_t stride,
                          __m256 (&sum)[Halves][Tokens]) noexcept {
  if constexpr (Step < panel16::steps) {
    __m256i u[Halves];
#pragma GCC unroll 8
    for (int h = 0; h < Halves; ++h) u[h] = unpack<Bits, Step>(tiles[h]);
    multiply_column<0>(u, zero, scale, x, stride, sum);
    multiply_column<1>(u, zero, scale, x, stride, sum);
    multiply_column<2>(u, zero, scale, x, stride, sum);
    multiply_column<3>(u, zero, scale, x, stride, sum);
    multiply_columns<Bits, Step + 1>(tiles, zero, scale, x + 4, stride, sum);
  }
}

// Tokens tokens of floats, [Tokens, padded columns], by one panel. Each output is one chain of
// fused multiply-adds over the columns in order, as in the dense product of dequantized weights.
// Limited by: five instructions that unpack for each multiply-add, with few tokens.
// Registers: 2 Tokens sums, four parameters, two of codes.
// Nothing else was tried.
template <int Bits, bool Affine, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
void weight_only_tile(const PackedPanels& w, const float* x, std::ptrdiff_t stride, float* y,
                      std::ptrdiff_t y_stride, int panel) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes, halves = 2;
  const int tiles_a_row = w.shape.col_tiles(),
            group_tiles = w.shape.group_codes() / panel16::tile_codes;
  const std::uint8_t* const codes =
      w.codes + static_cast<std::size_t>(panel) * static_cast<std::size_t>(tiles_a_row) * tile_size;
  const std::uint8_t* tiles[halves] = {codes, codes + half_bytes};
  std::size_t at = static_cast<std::size_t>(panel * w.shape.groups()) * panel16::tile_rows;
  __m256 sum[halves][Tokens];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) sum[0][t] = sum[1][t] = _mm256_setzero_ps();
  for (int left = tiles_a_row; left > 0; left -= group_tiles) {
    __m256i zero[halves];
    __m256 scale[halves];
#pragma GCC unroll 2
    for (int h = 0; h < halves; ++h, at += half_rows) {
      zero[h] = _mm256_set1_epi32(1 << (Bits - 1));
      if constexpr (Affine) zero[h] = load_zeros(w.zeros + at);
      scale[h] = load_scales(w.scales, w.shape.format.scale, at);
    }
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      multiply_columns<Bits, 0>(tiles, zero, scale, x, stride, sum);
      x += panel16::tile_codes, tiles[0] += tile_size, tiles[1] += tile_size;
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < halves; ++h) {
    const int row = panel * panel16::tile_rows + h * half_rows;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      if (row < w.shape.rows) store_first(y + t * y_stride + row, sum[h][t], w.shape.rows - row);
    }
  }
}

template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
void weight_only(const PackedPanels& w, MatrixRef<const float> x, MatrixRef<float> y,
                 GemmRange range) noexcept {
  const std::ptrdiff_t stride = x.stride(), y_stride = y.stride();
  for (int t = range.first_token; t < range.last_token;) {
    const float* in = x.data() + t * stride;
    float* out = y.data() + t * y_stride;
    const int left = range.last_token - t;
    for (int p = range.first_panel; p < range.last_panel; ++p) {
      switch (left) {
        case 1: weight_only_tile<Bits, Affine, 1>(w, in, stride, out, y_stride, p); break;
        case 2: weight_only_tile<Bits, Affine, 2>(w, in, stride, out, y_stride, p); break;
        case 3: weight_only_tile<Bits, Affine, 3>(w, in, stride, out, y_stride, p); break;
        default: weight_only_tile<Bits, Affine, 4>(w, in, stride, out, y_stride, p); break;
      }
    }
    t += left < 4 ? left : 4;
  }
}

}  // namespace bisup::avx2
#endif
