// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 multiply packed tiles of floats? Six tokens by two registers of weights.
// Limit: two 256-bit multiply-adds a cycle; a step of k has 12 for 8 loads, two of which fit one.
// Registers: 12 sums, 2 of weights, 2 broadcasts: all sixteen.
// Not tried: four tokens by three registers (7 loads for 12, but more of a short row unused).

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/dense_operand.hpp>

namespace bisup::avx2 {

inline constexpr int dense_panel_rows = 16;

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void transpose(__m256 (&a)[8]) noexcept {
  __m256 b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
    a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
    a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
    a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256 low = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
    a[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
    a[j] = low;
  }
}

// Stores the first `width` (at most 8) of v at `to`, with `left` floats from there to the end of
// the packed tile: what lies beyond `width` belongs to the rows that are stored next.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_packed(float* to, __m256 v, int width,
                                      std::ptrdiff_t left) noexcept {
  if (left >= 8) return _mm256_storeu_ps(to, v);
  store_first(to, v, width);
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void pack_rows(const DenseOperand& from, int first, int lines, int first_k,
                                      int count, int width, float* out) noexcept {
  for (int line = 0; line < width; line += 8) {
    const int present = lines - line, stored = width - line < 8 ? width - line : 8;
    const float* const end = out + static_cast<std::ptrdiff_t>(count) * width;
    // Absent lines are not read, but their address must still be one.
    std::ptrdiff_t at[8];
    for (int i = 0; i < 8; ++i) {
      const int there = i < present ? line + i : present > 0 ? lines - 1 : 0;
      at[i] = (first + there) * from.stride + first_k;
    }
    int k = 0;
    if (present >= stored && (stored == 8 || line == 0)) {
      for (; k + 8 <= count; k += 8) {
        __m256 a[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) a[i] = load_floats<Type>(from.data, at[i] + k, 8);
        transpose(a);
        float* to = out + static_cast<std::ptrdiff_t>(k) * width + line;
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i, to += width) store_packed(to, a[i], stored, end - to);
      }
    }
    for (; k < count; k += 8) {
      __m256 a[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        a[i] =
            i < present ? load_floats<Type>(from.data, at[i] + k, count - k) : _mm256_setzero_ps();
      }
      transpose(a);
      float* to = out + static_cast<std::ptrdiff_t>(k) * width + line;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        if (k + i < count) store_first(to + i * width, a[i], stored);
      }
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void pack_columns(const DenseOperand& from, int first, int lines,
                                         int first_k, int count, int width, float* out) noexcept {
  const float* const end = out + static_cast<std::ptrdiff_t>(count) * width;
  const float* at = static_cast<const float*>(from.data) + first_k * from.stride + first;
  const std::ptrdiff_t ahead = 16 * from.stride;
  for (int k = 0; k < count; ++k, at += from.stride, out += width) {
    // Every k lies in another page: without this each waits for its own, 1.4 times as long in all.
    if (k + 16 < count) __builtin_prefetch(at + ahead), __builtin_prefetch(at + ahead + lines - 1);
    if (width == 16 && lines == 16) {
      _mm256_storeu_ps(out, _mm256_loadu_ps(at));
      _mm256_storeu_ps(out + 8, _mm256_loadu_ps(at + 8));
      continue;
    }
    if (width <= 8) {
      store_packed(out, load_floats<DType::f32>(at, 0, lines), width, end - out);
      continue;
    }
    for (int line = 0; line < width; line += 8) {
      const int present = lines - line;
      const __m256 a =
          present > 0 ? load_floats<DType::f32>(at, line, present) : _mm256_setzero_ps();
      store_first(out + line, a, width - line);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
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

// One k of a tile.
template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void multiply_column(const float* x, const float* w, __m256 (&sum)[Tokens][2]) noexcept {
  const __m256 w0 = _mm256_load_ps(w), w1 = _mm256_load_ps(w + 8);
#pragma GCC unroll 6
  for (int t = 0; t < Tokens; ++t) {
    const __m256 xt = _mm256_broadcast_ss(x + t);
    sum[t][0] = _mm256_fmadd_ps(w0, xt, sum[t][0]);
    sum[t][1] = _mm256_fmadd_ps(w1, xt, sum[t][1]);
  }
}

template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void multiply_tile(const float* x, const float* w, int count, float* y,
                                          std::ptrdiff_t y_stride, int tokens, int rows,
                                          bool accumulate, Ahead ahead) noexcept {
  __m256 sum[Tokens][2];
#pragma GCC unroll 6
  for (int t = 0; t < Tokens; ++t) {
    const bool read = accumulate && t < tokens;
    const float* at = y + t * y_stride;
    sum[t][0] = read ? load_floats<DType::f32>(at, 0, rows) : _mm256_setzero_ps();
    sum[t][1] = read && rows > 8 ? load_floats<DType::f32>(at, 8, rows - 8) : _mm256_setzero_ps();
  }
  int k = 0;
  for (; ahead.bytes > 0 && k + 4 <= count; k += 4, x += 4 * Tokens, w += 4 * dense_panel_rows) {
    ahead.fetch();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      multiply_column<Tokens>(x + i * Tokens, w + i * dense_panel_rows, sum);
  }
#pragma GCC unroll 4
  for (; k < count; ++k, x += Tokens, w += dense_panel_rows) multiply_column<Tokens>(x, w, sum);
#pragma GCC unroll 6
  for (int t = 0; t < Tokens; ++t) {
    if (t < tokens) {
      store_first(y + t * y_stride, sum[t][0], rows);
      if (rows > 8) store_first(y + t * y_stride + 8, sum[t][1], rows - 8);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void dense_tile(const float* x, int width, const float* w, int count,
                                       float* y, std::ptrdiff_t y_stride, int tokens, int rows,
                                       bool accumulate, Ahead ahead) noexcept {
  switch (width) {
    case 6: return multiply_tile<6>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    case 4: return multiply_tile<4>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    default: return multiply_tile<2>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  }
}

}  // namespace bisup::avx2
#endif
