// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON with dot product multiply packed weights by quantized activations, one token or
// many? sdot takes signed codes, so those of 8 bits are moved to -128 ... 127 first.

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/neon/unpack.hpp>
#include <bisup/kernel/scalar.hpp>

namespace bisup::neon {

inline constexpr int quarters = 4;  // of a panel: 4 rows each, one register

// sum += four products a lane, with the four codes of lane Lane of b. The header of clang 14 hides
// the intrinsic unless the whole unit is compiled for it.
template <int Lane>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void add_products(int32x4_t& sum, int8x16_t u, int8x16_t b) noexcept {
#if defined(__GNUC__)
  asm("sdot %0.4s, %1.16b, %2.4b[%3]" : "+w"(sum) : "w"(u), "w"(b), "i"(Lane));
#else
  sum = vdotq_laneq_s32(sum, u, b, Lane);
#endif
}

// Steps [Step, 8) of a tile: four codes each of the 16 rows of a panel against Tokens tokens. A
// register of activations, `b`, lasts for four steps.
template <int Bits, int Step, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE
    void multiply_steps(const std::uint8_t* tile, const std::int8_t* a, std::ptrdiff_t stride,
                        int8x16_t (&b)[Tokens], int32x4_t (&dot)[quarters][Tokens]) noexcept {
  if constexpr (Step < panel16::steps) {
    if constexpr (Step % 4 == 0) {
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) b[t] = vld1q_s8(a + t * stride + 4 * Step);
    }
#pragma GCC unroll 4
    for (int q = 0; q < quarters; ++q) {
      uint8x16_t codes = unpack_quarter<Bits, Step>(tile + q * (part_bytes / 2));
      if constexpr (Bits == 8) codes = veorq_u8(codes, vdupq_n_u8(128));
      const int8x16_t u = vreinterpretq_s8_u8(codes);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) add_products<Step % 4>(dot[q][t], u, b[t]);
    }
    multiply_steps<Bits, Step + 1>(tile, a, stride, b, dot);
  }
}

// Tokens tokens by the 16 rows of a panel, all columns.
// Limited by: the ports of sdot, 16 products each; unpacking takes two instructions for four of it.
// Registers: 4 Tokens integer sums, Tokens of activations, some of codes: 24 of 32; the float sums
// are touched once a group and live on the stack.
// Not tried: 5 tokens a tile; run in an emulator only, measured on no processor yet.
template <int Bits, bool Affine, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
void gemm_tile(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y, int panel,
               int token) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  constexpr int offset = Bits == 8 ? 128 : 0;  // what multiply_steps has subtracted from the codes
  const int tiles_a_row = x.padded_cols / panel16::tile_codes, groups = x.groups;
  const int group_tiles =
      w.shape.format.group == 0 ? tiles_a_row : w.shape.format.group / panel16::tile_codes;
  const bool token_scales = x.scale_groups == 1;
  const std::uint8_t* tile =
      w.codes + static_cast<std::size_t>(panel) * static_cast<std::size_t>(tiles_a_row) * tile_size;
  std::size_t scale_at =
      static_cast<std::size_t>(panel) * static_cast<std::size_t>(groups) * panel16::tile_rows;
  const std::ptrdiff_t stride = x.padded_cols;
  const std::int8_t* a = x.codes + token * stride;
  const std::int32_t* sums = x.sums + static_cast<std::ptrdiff_t>(token) * groups;
  const float* scales = x.scales + static_cast<std::ptrdiff_t>(token) * x.scale_groups;

  Floats sum[2][Tokens];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) sum[0][t] = sum[1][t] = splat(0.0f);
  for (int g = 0, left = tiles_a_row; g < groups; ++g, left -= group_tiles) {
    int32x4_t dot[quarters][Tokens];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      Ints zero = splat((1 << (Bits - 1)) - offset);
      if constexpr (Affine) {
        zero = subtract(load_bytes(w.zeros + scale_at + h * lane_count), splat(offset));
      }
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) {
        const int32x4_t negative = vdupq_n_s32(-sums[t * groups + g]);
        dot[2 * h][t] = vmulq_s32(zero.low, negative);
        dot[2 * h + 1][t] = vmulq_s32(zero.high, negative);
      }
    }
    int8x16_t b[Tokens];
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      multiply_steps<Bits, 0>(tile, a, stride, b, dot);
      a += panel16::tile_codes, tile += tile_size;
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h, scale_at += lane_count) {
      const Floats scale = load_scales(w.scales, w.shape.format.scale, scale_at);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) {
        const Floats both = token_scales ? scale : multiply(scale, splat(scales[t * groups + g]));
        const Floats level = to_floats({dot[2 * h][t], dot[2 * h + 1][t]});
        sum[h][t] = multiply_add(level, both, sum[h][t]);
      }
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int row = panel * panel16::tile_rows + h * lane_count, rows = w.shape.rows - row;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      if (token_scales) sum[h][t] = multiply(sum[h][t], splat(scales[t]));
      if (rows <= 0) continue;
      float* const at = y.data() + (token + t) * y.stride() + row;
      store_first(at, sum[h][t], rows);
    }
  }
}

// Tokens are cut into tiles of nearly equal height, 4 at most. A token's result does not depend on
// the tile it is in.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
          GemmRange range) noexcept {
  constexpr int highest = 4;
  const int heights = (range.last_token - range.first_token + highest - 1) / highest;
  for (int p = range.first_panel; p < range.last_panel; ++p) {
    for (int i = 0, token = range.first_token; i < heights; ++i) {
      const int height = (range.last_token - token + heights - i - 1) / (heights - i);
      switch (height) {
        case 1: gemm_tile<Bits, Affine, 1>(w, x, y, p, token); break;
        case 2: gemm_tile<Bits, Affine, 2>(w, x, y, p, token); break;
        case 3: gemm_tile<Bits, Affine, 3>(w, x, y, p, token); break;
        default: gemm_tile<Bits, Affine, 4>(w, x, y, p, token); break;
      }
      token += height;
    }
  }
}

}  // namespace bisup::neon
#endif
