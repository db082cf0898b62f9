// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What surrounds the integer products of a tile in 256-bit registers: where its rows and tokens
// lie, how zero points start the sums, how scales turn them into floats, which rows are stored.
// Next: avx2/gemm.hpp and avx_vnni/gemm.hpp put their products between.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

namespace bisup::avx2 {

// Halves halves of panels, 8 rows each, read tile by tile. A panel beyond the last is read as the
// last and not stored.
template <int Bits, int Halves>
struct HalfPanels {
  static constexpr int tile_size = Bits * panel16::vector_bytes;

  BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
  BISUP_ALWAYS_INLINE HalfPanels(const PackedPanels& w, const ActivationView& x, int panel,
                                 int last_panel) noexcept
      : tiles_a_row(x.padded_cols / panel16::tile_codes),
        group_tiles(w.shape.format.group == 0 ? tiles_a_row
                                              : w.shape.format.group / panel16::tile_codes) {
#pragma GCC unroll 8
    for (int h = 0; h < Halves; ++h) {
      const auto index =
          static_cast<std::size_t>(panel + h / 2 < last_panel ? panel + h / 2 : last_panel - 1);
      tiles[h] =
          w.codes + index * static_cast<std::size_t>(tiles_a_row) * tile_size + h % 2 * part_bytes;
      scale_at[h] = index * static_cast<std::size_t>(x.groups) * panel16::tile_rows +
                    static_cast<std::size_t>(h % 2 * lane_count);
    }
  }
  BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
  BISUP_ALWAYS_INLINE void next_tile() noexcept {
#pragma GCC unroll 8
    for (int h = 0; h < Halves; ++h) tiles[h] += tile_size;
  }

  int tiles_a_row, group_tiles;
  const std::uint8_t* tiles[Halves];
  std::size_t scale_at[Halves];
};

// Activations from one token on.
struct TokenRows {
  BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
  BISUP_ALWAYS_INLINE TokenRows(const ActivationView& x, int token) noexcept
      : stride(x.padded_cols),
        codes(x.codes + token * stride),
        sums(x.sums + static_cast<std::ptrdiff_t>(token) * x.groups),
        scales(x.scales + static_cast<std::ptrdiff_t>(token) * x.scale_groups),
        groups(x.groups),
        token_scales(x.scale_groups == 1) {}

  std::ptrdiff_t stride;
  const std::int8_t* codes;
  const std::int32_t* sums;  // of the codes of each group
  const float* scales;
  int groups;
  bool token_scales;
};

// The sums of group g start at -zero times the sum of its activations. `offset` was subtracted from
// the codes, `zero` is the zero point of symmetric ones after that.
template <bool Affine, int Bits, int Halves, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void start_dots(const HalfPanels<Bits, Halves>& rows, const PackedPanels& w,
                                    const TokenRows& tokens, int g, int zero, int offset,
                                    __m256i (&dot)[Halves][Tokens]) noexcept {
#pragma GCC unroll 8
  for (int h = 0; h < Halves; ++h) {
    [[maybe_unused]] __m256i zeros;
    if constexpr (Affine) {
      zeros = _mm256_sub_epi32(load_bytes(w.zeros + rows.scale_at[h]), _mm256_set1_epi32(offset));
    }
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      const std::int32_t negative = -tokens.sums[t * tokens.groups + g];
      if constexpr (Affine) {
        dot[h][t] = _mm256_mullo_epi32(zeros, _mm256_set1_epi32(negative));
      } else {
        dot[h][t] = _mm256_set1_epi32(negative * zero);
      }
    }
  }
}

// sum += dot times the scales of group g; goes on to the scales of the next group.
template <int Bits, int Halves, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void scale_dots(HalfPanels<Bits, Halves>& rows, const PackedPanels& w, const TokenRows& tokens,
                    int g, const __m256i (&dot)[Halves][Tokens],
                    __m256 (&sum)[Halves][Tokens]) noexcept {
#pragma GCC unroll 8
  for (int h = 0; h < Halves; ++h) {
    const __m256 scale = load_scales(w.scales, w.shape.format.scale, rows.scale_at[h]);
    rows.scale_at[h] += panel16::tile_rows;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      const __m256 both =
          tokens.token_scales
              ? scale
              : _mm256_mul_ps(scale, _mm256_set1_ps(tokens.scales[t * tokens.groups + g]));
      sum[h][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[h][t]), both, sum[h][t]);
    }
  }
}

template <int Halves, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void store_sums(const PackedPanels& w, const TokenRows& tokens, MatrixRef<float> y, int panel,
                    int last_panel, int token, __m256 (&sum)[Halves][Tokens]) noexcept {
  float* const out = y.data() + token * y.stride();
#pragma GCC unroll 8
  for (int h = 0; h < Halves; ++h) {
    const int row = (panel + h / 2) * panel16::tile_rows + h % 2 * lane_count;
    const int rows = panel + h / 2 < last_panel ? w.shape.rows - row : 0;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      if (rows <= 0) continue;
      float* const at = out + t * y.stride() + row;
      if (tokens.token_scales)
        sum[h][t] = _mm256_mul_ps(sum[h][t], _mm256_set1_ps(tokens.scales[t]));
      store_first(at, sum[h][t], rows);
    }
  }
}

}  // namespace bisup::avx2
#endif
