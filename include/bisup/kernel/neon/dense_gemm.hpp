// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON multiply packed tiles of floats? Six tokens by two registers of weights.
// Limit: the multiply-adds, 24 a step of k for 10 loads.
// Registers: 24 sums, 4 of weights, 2 broadcasts of 32.
// Not tried: multiplying by lanes of x, 4 loads fewer a step; measured on no processor yet.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>

#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/neon/lanes.hpp>

namespace bisup::neon {

inline constexpr int dense_panel_rows = 16;

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void transpose(float32x4_t& a, float32x4_t& b, float32x4_t& c,
                                   float32x4_t& d) noexcept {
  const float32x4_t ab_even = vtrn1q_f32(a, b), ab_odd = vtrn2q_f32(a, b);
  const float32x4_t cd_even = vtrn1q_f32(c, d), cd_odd = vtrn2q_f32(c, d);
  a = vcombine_f32(vget_low_f32(ab_even), vget_low_f32(cd_even));
  b = vcombine_f32(vget_low_f32(ab_odd), vget_low_f32(cd_odd));
  c = vcombine_f32(vget_high_f32(ab_even), vget_high_f32(cd_even));
  d = vcombine_f32(vget_high_f32(ab_odd), vget_high_f32(cd_odd));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void transpose(Floats (&a)[8]) noexcept {
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    transpose(a[i].low, a[i + 1].low, a[i + 2].low, a[i + 3].low);
    transpose(a[i].high, a[i + 1].high, a[i + 2].high, a[i + 3].high);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float32x4_t from = a[i].high;
    a[i].high = a[4 + i].low, a[4 + i].low = from;
  }
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void pack_rows(const DenseOperand& from, int first, int lines, int first_k,
                                      int count, int width, float* out) noexcept {
  for (int line = 0; line < width; line += 8) {
    const int present = lines - line;
    // Absent lines are not read, but their address must still be one.
    const std::ptrdiff_t start = (first + (present > 0 ? line : 0)) * from.stride + first_k;
    for (int k = 0; k < count; k += 8) {
      Floats a[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        a[i] = i < present ? load_floats<Type>(from.data, start + i * from.stride + k, count - k)
                           : splat(0.0f);
      }
      transpose(a);
      float* to = out + static_cast<std::ptrdiff_t>(k) * width + line;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        if (k + i < count) store_first(to + i * width, a[i], width - line);
      }
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void pack_columns(const DenseOperand& from, int first, int lines,
                                         int first_k, int count, int width, float* out) noexcept {
  for (int k = 0; k < count; ++k) {
    const std::ptrdiff_t at = (first_k + k) * from.stride + first;
    // Every k lies in another page: without this each waits for its own.
    if (k + 16 < count) {
      const float* ahead = static_cast<const float*>(from.data) + at + 16 * from.stride;
      __builtin_prefetch(ahead), __builtin_prefetch(ahead + lines - 1);
    }
    for (int line = 0; line < width; line += 8) {
      const int present = lines - line;
      const Floats a =
          present > 0 ? load_floats<DType::f32>(from.data, at + line, present) : splat(0.0f);
      store_first(out + static_cast<std::ptrdiff_t>(k) * width + line, a, width - line);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
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
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE
    void multiply_column(const float* x, const float* w, Floats (&sum)[Tokens][2]) noexcept {
  const Floats w0 = load(w), w1 = load(w + 8);
#pragma GCC unroll 6
  for (int t = 0; t < Tokens; ++t) {
    const Floats xt = splat(x[t]);
    sum[t][0] = multiply_add(w0, xt, sum[t][0]);
    sum[t][1] = multiply_add(w1, xt, sum[t][1]);
  }
}

template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void multiply_tile(const float* x, const float* w, int count, float* y,
                                          std::ptrdiff_t y_stride, int tokens, int rows,
                                          bool accumulate, Ahead ahead) noexcept {
  Floats sum[Tokens][2];
#pragma GCC unroll 6
  for (int t = 0; t < Tokens; ++t) {
    const bool read = accumulate && t < tokens;
    const float* at = y + t * y_stride;
    sum[t][0] = read ? load_floats<DType::f32>(at, 0, rows) : splat(0.0f);
    sum[t][1] = read && rows > 8 ? load_floats<DType::f32>(at, 8, rows - 8) : splat(0.0f);
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

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void dense_tile(const float* x, int width, const float* w, int count,
                                       float* y, std::ptrdiff_t y_stride, int tokens, int rows,
                                       bool accumulate, Ahead ahead) noexcept {
  switch (width) {
    case 6: return multiply_tile<6>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    case 4: return multiply_tile<4>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
    default: return multiply_tile<2>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  }
}

}  // namespace bisup::neon
#endif
