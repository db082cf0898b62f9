// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 multiply packed tiles of floats? Twelve tokens by two registers of weights.
// Limit: one 512-bit multiply-add a cycle (Zen 4) or two (Zen 5, Intel); a step of k has 24
// for 14 loads. Registers: 24 sums, 2 of weights, 1 broadcast.
// Lost: fetching ahead while packing rows (packing went from 6 to 8 % of a product of 512 tokens).
// Not tried: reading x in place; rows 4 KiB apart would share a cache set.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/dense_operand.hpp>

namespace bisup::avx512 {

inline constexpr int dense_panel_rows = 32;

// Transposes 16 registers of 16 floats.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void transpose(__m512 (&a)[16]) noexcept {
  __m512 b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_maskz_unpacklo_ps(0xffff, a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_maskz_unpackhi_ps(0xffff, a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // a[4i + j]: column j of the four 4 x 4 blocks of rows 4i ...
    const __m512d p0 = _mm512_castps_pd(b[4 * i]), p1 = _mm512_castps_pd(b[4 * i + 1]);
    const __m512d p2 = _mm512_castps_pd(b[4 * i + 2]), p3 = _mm512_castps_pd(b[4 * i + 3]);
    a[4 * i] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, p0, p2));
    a[4 * i + 1] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, p0, p2));
    a[4 * i + 2] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, p1, p3));
    a[4 * i + 3] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, p1, p3));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 low01 = _mm512_maskz_shuffle_f32x4(0xffff, a[j], a[4 + j], 0x88);
    const __m512 high01 = _mm512_maskz_shuffle_f32x4(0xffff, a[j], a[4 + j], 0xdd);
    const __m512 low23 = _mm512_maskz_shuffle_f32x4(0xffff, a[8 + j], a[12 + j], 0x88);
    const __m512 high23 = _mm512_maskz_shuffle_f32x4(0xffff, a[8 + j], a[12 + j], 0xdd);
    b[j] = _mm512_maskz_shuffle_f32x4(0xffff, low01, low23, 0x88);
    b[4 + j] = _mm512_maskz_shuffle_f32x4(0xffff, high01, high23, 0x88);
    b[8 + j] = _mm512_maskz_shuffle_f32x4(0xffff, low01, low23, 0xdd);
    b[12 + j] = _mm512_maskz_shuffle_f32x4(0xffff, high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = b[i];
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void pack_rows(const DenseOperand& from, int first, int lines, int first_k,
                                      int count, int width, float* out) noexcept {
  for (int line = 0; line < width; line += 16) {
    const int present = lines - line;
    const __mmask16 stored = first_lanes(width - line);
    // Absent lines are masked out, but their address must still be one.
    const std::ptrdiff_t start = (first + (present > 0 ? line : 0)) * from.stride + first_k;
    for (int k = 0; k < count; k += 16) {
      const __mmask16 loaded = first_lanes(count - k);
      __m512 a[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const std::ptrdiff_t at = start + (i < present ? i * from.stride : 0) + k;
        a[i] = load_floats<Type>(from.data, at, i < present ? loaded : static_cast<__mmask16>(0));
      }
      transpose(a);
      float* to = out + static_cast<std::ptrdiff_t>(k) * width + line;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (k + i < count) _mm512_mask_storeu_ps(to + i * width, stored, a[i]);
      }
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void pack_columns(const DenseOperand& from, int first, int lines,
                                         int first_k, int count, int width, float* out) noexcept {
  const std::ptrdiff_t ahead = 16 * from.stride;
  for (int k = 0; k < count; ++k) {
    const std::ptrdiff_t at = (first_k + k) * from.stride + first;
    if (k + 16 < count) {  // in another page: 1.07 times as fast in all
      const float* const next = static_cast<const float*>(from.data) + at + ahead;
      __builtin_prefetch(next), __builtin_prefetch(next + lines - 1);
    }
    for (int line = 0; line < width; line += 16) {
      const int present = lines - line;
      const __m512 a =
          load_floats<DType::f32>(from.data, present > 0 ? at + line : at, first_lanes(present));
      _mm512_mask_storeu_ps(out + static_cast<std::ptrdiff_t>(k) * width + line,
                            first_lanes(width - line), a);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void dense_pack(const DenseOperand& from, int first, int lines, int first_k,
                                       int count, int width, float* out) noexcept {
  if (from.lines_are_columns) return pack_columns(from, first, lines, first_k, count, width, out);
  switch (from.type) {
    case DType::f32: return pack_rows<DType::f32>(from, first, lines, first_k, count, width, out);
    case DType::f16: return pack_rows<DType::f16>(from, first, lines, first_k, count, width, out);
    case DType::bf16: return pack_rows<DType::bf16>(from, first, lines, first_k, count, width, out);
    case DType::i8: return pack_rows<DType::i8>(from, first, lines, first_k, count, width, out);
  }
}

template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void multiply_tile(const float* x, const float* w, int count, float* y,
                                          std::ptrdiff_t y_stride, int tokens, int rows,
                                          bool accumulate, Ahead ahead) noexcept {
  const __mmask16 low = first_lanes(rows), high = first_lanes(rows - 16);
  __m512 sum[Tokens][2];
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    const bool read = accumulate && t < tokens;
    const float* at = y + (read ? t * y_stride : 0);
    sum[t][0] = _mm512_maskz_loadu_ps(read ? low : static_cast<__mmask16>(0), at);
    sum[t][1] =
        _mm512_maskz_loadu_ps(read ? high : static_cast<__mmask16>(0), at + (high ? 16 : 0));
  }
  for (int k = 0; k < count; ++k, x += Tokens, w += dense_panel_rows) {
    if (k % 2 == 0) ahead.fetch();
    const __m512 w0 = _mm512_load_ps(w), w1 = _mm512_load_ps(w + 16);
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) {
      const __m512 xt = _mm512_set1_ps(x[t]);
      sum[t][0] = _mm512_fmadd_ps(w0, xt, sum[t][0]);
      sum[t][1] = _mm512_fmadd_ps(w1, xt, sum[t][1]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    if (t < tokens) {
      _mm512_mask_storeu_ps(y + t * y_stride, low, sum[t][0]);
      if (high) _mm512_mask_storeu_ps(y + t * y_stride + 16, high, sum[t][1]);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void dense_tile(const float* x, int width, const float* w, int count,
                                       float* y, std::ptrdiff_t y_stride, int tokens, int rows,
                                       bool accumulate, Ahead ahead) noexcept {
  switch (width) {
    case 12: return multiply_tile<12>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    case 8: return multiply_tile<8>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    default: return multiply_tile<4>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  }
}

}  // namespace bisup::avx512
#endif
