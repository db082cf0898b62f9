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
#include <cstring>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx512/code_dot.hpp>
#include <bisup/kernel/avx512/few_tokens.hpp>
#include <bisup/kernel/avx512/unpack.hpp>
#include <bisup/kernel/even_tiles.hpp>
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
    for (int p = 0; p < Panels; ++p) add_products(dot[p][t], u[p], b);
  }
}

// Where the codes of Panels panels lie, from some group on, and what they are scaled by.
template <int Panels>
struct PanelCodes {
  const std::uint8_t* tiles[Panels];
  std::size_t scale_at[Panels];  // in scales and zeros
  const void* scales;
  Scale scale_type;
  const std::uint8_t* zeros;
};

// Tokens tokens by 16 Panels rows: adds groups [first_group, last_group) to sum, which is in units
// of a token's scale if that is the same for all groups. Codes of ZeroBits bits lie in Bits.
// Limited by: the multiply ports; one vpdpbusd of 64 products per 1 (or 0.5) clocks. A group of 32
// codes in 6 x 2 tiles takes 96 vpdpbusd beside 12 vfmadd on the same ports: 0.89 of the peak, of
// 128 codes 0.97. Where all 512-bit instructions share those ports (Intel), conversions do too:
// 0.80 and 0.94, and unpacking 4 bits in the loop is 24 more of every 96: 0.66 and 0.75.
// Registers: Tokens * Panels integer sums, as many float sums, Panels codes, 1 broadcast, masks.
// Lost: asking for the next panels' lines while 16 tokens pass, evenly or at once, and taking the
// columns in blocks: weights from memory stay at .65 of the rate from cache; huge pages give .72.
// Asking for them while 504 tokens pass, and starting sums by a broadcast from memory: no faster.
// Not tried: activations packed by token tile (it costs a pass).
template <int Bits, int ZeroBits, bool Affine, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void add_groups(PanelCodes<Panels> w, const ActivationView& x, int token, int group_tiles,
                    int first_group, int last_group, __m512 (&sum)[Panels][Tokens]) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  const bool token_scales = x.scale_groups == 1;
  const int groups = x.groups, first_tile = first_group * group_tiles;
  const std::ptrdiff_t stride = x.padded_cols;
  const std::int8_t* a = x.codes + token * stride + first_tile * panel16::tile_codes;
  const std::int32_t* sums = x.sums + static_cast<std::ptrdiff_t>(token) * groups;
  const float* scales = x.scales + static_cast<std::ptrdiff_t>(token) * x.scale_groups;

  int left = x.padded_cols / panel16::tile_codes - first_tile;
  for (int g = first_group; g < last_group; ++g, left -= group_tiles) {
    __m512i dot[Panels][Tokens];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      const __m512i zero = Affine ? load_bytes(w.zeros + w.scale_at[p]) : _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t)
        dot[p][t] = less_zeros<ZeroBits, Affine>(zero, sums[t * groups + g]);
    }
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      multiply_step<Bits, 0>(w.tiles, a, stride, dot);
      multiply_step<Bits, 1>(w.tiles, a, stride, dot);
      multiply_step<Bits, 2>(w.tiles, a, stride, dot);
      multiply_step<Bits, 3>(w.tiles, a, stride, dot);
      multiply_step<Bits, 4>(w.tiles, a, stride, dot);
      multiply_step<Bits, 5>(w.tiles, a, stride, dot);
      multiply_step<Bits, 6>(w.tiles, a, stride, dot);
      multiply_step<Bits, 7>(w.tiles, a, stride, dot);
      a += panel16::tile_codes;
#pragma GCC unroll 8
      for (int p = 0; p < Panels; ++p) w.tiles[p] += tile_size;
    }
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      const __m512 scale = load_scales(w.scales, w.scale_type, w.scale_at[p]);
      w.scale_at[p] += panel16::tile_rows;
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
}

// Asks for the lines that store_sums will write: y leaves the caches between two tiles of a token,
// and 12 lines that all miss at the end of a tile are 3 % of a product of 500 tokens (Zen 4).
template <int Tokens, int Panels>
BISUP_ALWAYS_INLINE void ask_for_sums(MatrixRef<float> y, int panel, int last_panel,
                                      int token) noexcept {
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
    const float* const row = y.data() + (token + t) * y.stride();
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      const int index = panel + p < last_panel ? panel + p : last_panel - 1;
      __builtin_prefetch(row + index * panel16::tile_rows, 1, 3);
    }
  }
}

// Tokens tokens by 16 Panels rows, all columns, unpacked on the way.
template <int Bits, bool Affine, int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void gemm_tile(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y, int panel,
               int last_panel, int token) noexcept {
  const int row_tiles = x.padded_cols / panel16::tile_codes;
  const int group = w.shape.format.group;
  PanelCodes<Panels> codes{{}, {}, w.scales, w.shape.format.scale, w.zeros};
  ask_for_sums<Tokens, Panels>(y, panel, last_panel, token);
  __m512 sum[Panels][Tokens];
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    // A panel beyond the last is computed as the last and not stored.
    const auto index =
        static_cast<std::size_t>(panel + p < last_panel ? panel + p : last_panel - 1);
    codes.tiles[p] =
        w.codes + index * static_cast<std::size_t>(row_tiles) * (Bits * panel16::vector_bytes);
    codes.scale_at[p] = index * static_cast<std::size_t>(x.groups) * panel16::tile_rows;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) sum[p][t] = _mm512_setzero_ps();
  }
  add_groups<Bits, Bits, Affine>(
      codes, x, token, group == 0 ? row_tiles : group / panel16::tile_codes, 0, x.groups, sum);
  store_sums(x, y, w.shape.rows, panel, last_panel, token, sum);
}

// Two panels of some groups, unpacked for many tokens, and the sums of these so far.
struct alignas(64) UnpackedPanels {
  static constexpr int panels = 2, block_codes = 512, most_tokens = 192;
  std::uint8_t codes[panels][block_codes * panel16::tile_rows];
  static constexpr int parameters = block_codes / panel16::tile_codes * panel16::tile_rows;
  float scales[panels][parameters];
  std::uint8_t zeros[panels][parameters];
  float sums[panels][most_tokens][panel16::tile_rows];
};

// Steps [Step, 8) of a tile, a byte a code.
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void unpack_steps(const std::uint8_t* tile, std::uint8_t* to) noexcept {
  if constexpr (Step < panel16::steps) {
    _mm512_store_si512(to + Step * panel16::vector_bytes, unpack<Bits, Step>(tile));
    unpack_steps<Bits, Step + 1>(tile, to);
  }
}

// One tile of tokens by what is unpacked, groups [first, last).
template <int ZeroBits, bool Affine, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void unpacked_tile(UnpackedPanels& block, const PackedPanels& w, const ActivationView& x,
                   MatrixRef<float> y, int panel, int last_panel, int first, int last, int token,
                   int slot) noexcept {
  constexpr int panels = UnpackedPanels::panels;
  PanelCodes<panels> codes{{block.codes[0], block.codes[1]},
                           {0, UnpackedPanels::parameters},
                           block.scales,
                           Scale::f32,
                           block.zeros[0]};
  __m512 sum[panels][Tokens];
#pragma GCC unroll 2
  for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
      sum[p][t] = first == 0 ? _mm512_setzero_ps() : _mm512_load_ps(block.sums[p][slot + t]);
  }
  add_groups<8, ZeroBits, Affine>(codes, x, token, w.shape.format.group / panel16::tile_codes,
                                  first, last, sum);
  if (last == x.groups) return store_sums(x, y, w.shape.rows, panel, last_panel, token, sum);
#pragma GCC unroll 2
  for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) _mm512_store_ps(block.sums[p][slot + t], sum[p][t]);
  }
}

// Two panels by many tokens: a block of groups is unpacked once and stays in the first cache while
// all tokens pass. Every sum adds its groups in order, so that nothing shows in the result.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void unpacked_panels(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y, int panel,
                     int last_panel, int first_token, int last_token) noexcept {
  UnpackedPanels block;
  const int group_tiles = w.shape.format.group / panel16::tile_codes;
  const int row_tiles = x.padded_cols / panel16::tile_codes;
  const int step = UnpackedPanels::block_codes / w.shape.format.group;
  for (int first = 0; first < x.groups; first += step) {
    const int last = first + step < x.groups ? first + step : x.groups;
    const int first_tile = first * group_tiles;
    const int tiles = (last < x.groups ? last * group_tiles : row_tiles) - first_tile;
    for (int p = 0; p < UnpackedPanels::panels; ++p) {
      const std::ptrdiff_t index = panel + p < last_panel ? panel + p : last_panel - 1;
      const std::uint8_t* tile =
          w.codes + (index * row_tiles + first_tile) * (Bits * panel16::vector_bytes);
      for (int i = 0; i < tiles; ++i)
        unpack_steps<Bits, 0>(tile + static_cast<std::ptrdiff_t>(i) * Bits * panel16::vector_bytes,
                              block.codes[p] + i * 8 * panel16::vector_bytes);
      for (int g = first; g < last; ++g) {
        const auto at = static_cast<std::size_t>((index * x.groups + g) * panel16::tile_rows);
        const int to = (g - first) * panel16::tile_rows;
        _mm512_store_ps(block.scales[p] + to, load_scales(w.scales, w.shape.format.scale, at));
        if constexpr (Affine) std::memcpy(block.zeros[p] + to, w.zeros + at, panel16::tile_rows);
      }
    }
    each_tile(first_token, last_token, [&]<int Tokens>(int token) {
      unpacked_tile<Bits, Affine, Tokens>(block, w, x, y, panel, last_panel, first, last, token,
                                          token - first_token);
    });
  }
}

// As gemm; from `many` tokens on codes are unpacked once for all of them if unpack_once.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void gemm_panels(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
                 GemmRange range, bool unpack_once) noexcept {
  constexpr int many = 64;  // tokens; below, 4 bits lose by it
  const int last = range.last_panel, tokens = range.last_token - range.first_token;
  constexpr int step = UnpackedPanels::panels;
  const int group = w.shape.format.group;
  unpack_once = unpack_once && tokens >= many && group > 0 && group <= UnpackedPanels::block_codes;
  for (int p = range.first_panel; p < last; p += step) {
    if constexpr (Bits < 8) {
      constexpr int most = UnpackedPanels::most_tokens;
      for (int t = range.first_token; unpack_once && t < range.last_token; t += most) {
        const int end = range.last_token - t < most ? range.last_token : t + most;
        unpacked_panels<Bits, Affine>(w, x, y, p, last, t, end);
      }
      if (unpack_once) continue;
    }
    each_tile(range.first_token, range.last_token, [&]<int Tokens>(int token) {
      if constexpr (Tokens <= few_tokens<Bits>) {
        for (int i = p; i < p + step && i < last; ++i)
          few_tokens_tile<Bits, Affine, Tokens>(w, x, y, i, token);
      } else {
        gemm_tile<Bits, Affine, Tokens, step>(w, x, y, p, last, token);
      }
    });
  }
}

// A token's result does not depend on the tile it is in.
// Unpacking once pays where the instructions that unpack would take the place of products;
// elsewhere they run beside them (Zen 4, W4 by groups of 128: .92 of the peak beside .86).
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
          GemmRange range) noexcept {
  static const bool unpack_once = wide_vectors_share_ports();
  gemm_panels<Bits, Affine>(w, x, y, range, unpack_once);
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
