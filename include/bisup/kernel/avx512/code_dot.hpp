// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are products of codes summed in fours, and the finished sums of panels stored?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/pack/layout.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// sum += the four products of every lane. As an instruction for g++ 12, which gives the intrinsic's
// result a register of its own (of the vpdpbusd peak on Zen 4, W4 by groups of 32: .84 beside .81);
// clang 14 does without, and worse with it (.73).
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void add_products(__m512i& sum, __m512i u, __m512i a) noexcept {
#if defined(__GNUC__) && !defined(__clang__)
  __m512i moved = sum;
  asm("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+v"(moved) : "v"(u), "v"(a));
  sum = moved;
#else
  sum = _mm512_dpbusd_epi32(sum, u, a);
#endif
}

// What the sum of a group's products begins with, so that codes need no zero point: each row's, or
// the one of all symmetric codes of so many bits, times the sum of the activation's codes.
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE __m512i less_zeros(__m512i zero, std::int32_t sum) noexcept {
  if constexpr (Affine) return _mm512_mullo_epi32(zero, _mm512_set1_epi32(-sum));
  return _mm512_set1_epi32(-sum * (1 << (Bits - 1)));
}

// Writes sums to y; panels from last_panel on do not exist. A whole panel has no mask: stores with
// one are slow on Zen 4.
template <int Tokens, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void store_sums(const ActivationView& x, MatrixRef<float> y, int rows, int panel,
                    int last_panel, int token, __m512 (&sum)[Panels][Tokens]) noexcept {
  const bool token_scales = x.scale_groups == 1;
  const float* scales = x.scales + static_cast<std::ptrdiff_t>(token) * x.scale_groups;
#pragma GCC unroll 8
  for (int p = 0; p < Panels; ++p) {
    const int row = (panel + p) * panel16::tile_rows;
    const __mmask16 mask = first_lanes(panel + p < last_panel ? rows - row : 0);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      if (token_scales) sum[p][t] = _mm512_mul_ps(sum[p][t], _mm512_set1_ps(scales[t]));
      float* const at = y.data() + (token + t) * y.stride() + row;
      if (mask == 0xffff) {
        _mm512_storeu_ps(at, sum[p][t]);
      } else {
        _mm512_mask_storeu_ps(at, mask, sum[p][t]);
      }
    }
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
