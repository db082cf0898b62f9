// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI multiply packed weights by quantized activations, one token or many?
// vpdpbusd takes the stored unsigned codes as they are; zero points enter through the start of the
// accumulator.

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

// One step: four codes of 16 Panels rows against Tokens tokens.
template <int Bits, int Step, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void multiply_step(const std::uint8_t* const (&tiles)[Panels], const std::int8_t* a,
                       std::ptrdiff_t stride, __m512i (&dot)[Panels][Tokens]) noexcept {
  __m512i u[Panels];
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) u[p] = unpack<Bits, Step>(tiles[p]);
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
    const __m512i b = broadcast_codes(a + t * stride + 4 * Step);
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], u[p], b);
  }
}

// Tokens tokens by 16 Panels rows, all columns.
// Limited by: the multiply ports; one vpdpbusd of 64 products per 1 (or 0.5) clocks.
// Registers: Tokens * Panels integer sums, as many float sums, Panels codes, 1 broadcast, masks.
// Not tried: activations packed by token tile (it costs a pass).
template <int Bits, bool Affine, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void gemm_tile(const PackedPanels& w, const ActivationView& x, float* y, std::ptrdiff_t y_stride,
               int panel, int last_panel, int token, bool add) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  const int tiles_a_row = x.padded_cols / panel16::tile_codes, groups = x.groups;
  const int group_tiles =
      w.shape.format.group == 0 ? tiles_a_row : w.shape.format.group / panel16::tile_codes;
  const Scale scale_type = w.shape.format.scale;
  const bool token_scales = x.scale_groups == 1;

  const std::uint8_t* tiles[Panels];
  std::size_t scale_at[Panels];
  __m512 sum[Panels][Tokens];
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    // A panel beyond the last is computed as the last and not stored.
    const auto index =
        static_cast<std::size_t>(panel + p < last_panel ? panel + p : last_panel - 1);
    tiles[p] = w.codes + index * static_cast<std::size_t>(tiles_a_row) * tile_size;
    scale_at[p] = index * static_cast<std::size_t>(groups) * panel16::tile_rows;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) sum[p][t] = _mm512_setzero_ps();
  }
  const std::ptrdiff_t stride = x.padded_cols;
  const std::int8_t* a = x.codes + token * stride;
  const std::int32_t* sums = x.sums + static_cast<std::ptrdiff_t>(token) * groups;
  const float* scales = x.scales + static_cast<std::ptrdiff_t>(token) * x.scale_groups;

  for (int g = 0, left = tiles_a_row; g < groups; ++g, left -= group_tiles) {
    __m512i dot[Panels][Tokens];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      [[maybe_unused]] __m512i zero;
      if constexpr (Affine) zero = load_zeros(w.zeros + scale_at[p]);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) {
        const std::int32_t negative = -sums[t * groups + g];
        if constexpr (Affine) {
          dot[p][t] = _mm512_mullo_epi32(zero, _mm512_set1_epi32(negative));
        } else {
          dot[p][t] = _mm512_set1_epi32(negative * (1 << (Bits - 1)));
        }
      }
    }
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      multiply_step<Bits, 0>(tiles, a, stride, dot);
      multiply_step<Bits, 1>(tiles, a, stride, dot);
      multiply_step<Bits, 2>(tiles, a, stride, dot);
      multiply_step<Bits, 3>(tiles, a, stride, dot);
      multiply_step<Bits, 4>(tiles, a, stride, dot);
      multiply_step<Bits, 5>(tiles, a, stride, dot);
      multiply_step<Bits, 6>(tiles, a, stride, dot);
      multiply_step<Bits, 7>(tiles, a, stride, dot);
      a += panel16::tile_codes;
#pragma GCC unroll 8
      for (int p = 0; p < Panels; ++p) tiles[p] += tile_size;
    }
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      const __m512 scale = load_scales(w.scales, scale_type, scale_at[p]);
      scale_at[p] += panel16::tile_rows;
      if (token_scales) {
#pragma GCC unroll 8
        for (int t = 0; t < Tokens; ++t) {
          sum[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p][t]), scale, sum[p][t]);
        }
      } else {
#pragma GCC unroll 8
        for (int t = 0; t < Tokens; ++t) {
          const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(scales[t * groups + g]));
          sum[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p][t]), both, sum[p][t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    const int row = (panel + p) * panel16::tile_rows;
    const int rows = panel + p < last_panel ? w.shape.rows - row : 0;
    const auto mask = static_cast<__mmask16>(row_mask(rows));
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      if (token_scales) sum[p][t] = _mm512_mul_ps(sum[p][t], _mm512_set1_ps(scales[t]));
      float* const at = y + (token + t) * y_stride + row;
      if (add) sum[p][t] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum[p][t]);
      _mm512_mask_storeu_ps(at, mask, sum[p][t]);
    }
  }
}

// Tokens are cut into tiles of nearly equal height, 6 at most, so that 7 tokens are 4 + 3, not 6 +
// 1; fewer tokens take more panels at once. A token's result does not depend on the tile it is in.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
          GemmRange range) noexcept {
  constexpr int highest = 6;
  float* const out = y.data();
  const std::ptrdiff_t stride = y.stride();
  const int last = range.last_panel, tokens = range.last_token - range.first_token;
  const int heights = (tokens + highest - 1) / highest;
  const int step = tokens <= 2 ? 4 : 2;  // panels
  const bool add = range.into == Into::add;
  for (int p = range.first_panel; p < last; p += step) {
    for (int i = 0, token = range.first_token; i < heights; ++i) {
      const int height = (range.last_token - token + heights - i - 1) / (heights - i);
      switch (height) {
        case 1: gemm_tile<Bits, Affine, 1, 4>(w, x, out, stride, p, last, token, add); break;
        case 2: gemm_tile<Bits, Affine, 2, 4>(w, x, out, stride, p, last, token, add); break;
        case 3: gemm_tile<Bits, Affine, 3, 2>(w, x, out, stride, p, last, token, add); break;
        case 4: gemm_tile<Bits, Affine, 4, 2>(w, x, out, stride, p, last, token, add); break;
        case 5: gemm_tile<Bits, Affine, 5, 2>(w, x, out, stride, p, last, token, add); break;
        default: gemm_tile<Bits, Affine, 6, 2>(w, x, out, stride, p, last, token, add); break;
      }
      token += height;
    }
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
