// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are packed tiles of floats multiplied? Six tokens by two registers of weights, twelve where
// there are 32 registers. Included by each_target.hpp.
// Limit: two multiply-adds a cycle (one of 512 bits on Zen 4); a step of k has 12 for 8 loads, of
// which a processor does two a cycle, or 24 for 14.
// Registers: 12 sums, 2 of weights, 2 broadcasts: all sixteen; 24, 2 and 1 of 32.
// Lost: fetching ahead while packing rows (packing went from 6 to 8 % of a product of 512 tokens).
// Not tried: reading x in place (rows 4 KiB apart would share a cache set); four tokens by three
// registers.

#include <algorithm>
#include <cstddef>

#include <bisup/kernel/dense_operand.hpp>

namespace bisup::BISUP_LANES {

inline constexpr int dense_panel_rows = 2 * lane_count;
inline constexpr int dense_tile_tokens = register_count >= 32 ? 12 : 6;
inline constexpr int dense_tile_step = dense_tile_tokens / 3;

// Stores the first `width` of v at `to`, with `left` floats from there to the end of
// the packed tile: what lies beyond `width` belongs to the rows that are stored next.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void store_packed(float* to, Floats v, int width,
                                      std::ptrdiff_t left) noexcept {
  if (left >= lane_count) return store(to, v);
  store_first(to, v, width);
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void pack_rows(const DenseOperand& from, int first, int lines, int first_k,
                                      int count, int width, float* out) noexcept {
  for (int line = 0; line < width; line += lane_count) {
    const int present = lines - line, stored = std::min(width - line, lane_count);
    const float* const end = out + static_cast<std::ptrdiff_t>(count) * width;
    // Absent lines are not read, but their address must still be one.
    std::ptrdiff_t at[lane_count];
    for (int i = 0; i < lane_count; ++i) {
      const int there = i < present ? line + i : present > 0 ? lines - 1 : 0;
      at[i] = (first + there) * from.stride + first_k;
    }
    int k = 0;
    if (present >= stored && (stored == lane_count || line == 0)) {
      for (; k + lane_count <= count; k += lane_count) {
        Floats a[lane_count];
#pragma GCC unroll 16
        for (int i = 0; i < lane_count; ++i)
          a[i] = load_floats<Type>(from.data, at[i] + k, lane_count);
        transpose(a);
        float* to = out + static_cast<std::ptrdiff_t>(k) * width + line;
#pragma GCC unroll 16
        for (int i = 0; i < lane_count; ++i, to += width) store_packed(to, a[i], stored, end - to);
      }
    }
    for (; k < count; k += lane_count) {
      Floats a[lane_count];
#pragma GCC unroll 16
      for (int i = 0; i < lane_count; ++i) {
        a[i] = i < present ? load_floats<Type>(from.data, at[i] + k, count - k) : splat(0.0f);
      }
      transpose(a);
      float* to = out + static_cast<std::ptrdiff_t>(k) * width + line;
#pragma GCC unroll 16
      for (int i = 0; i < lane_count; ++i) {
        if (k + i < count) store_first(to + i * width, a[i], stored);
      }
    }
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void pack_columns(const DenseOperand& from, int first, int lines,
                                         int first_k, int count, int width, float* out) noexcept {
  const float* const end = out + static_cast<std::ptrdiff_t>(count) * width;
  const float* at = static_cast<const float*>(from.data) + first_k * from.stride + first;
  const std::ptrdiff_t ahead = 16 * from.stride;
  for (int k = 0; k < count; ++k, at += from.stride, out += width) {
    // Every k lies in another page: without this each waits for its own, 1.4 times as long in all.
    if (k + 16 < count) __builtin_prefetch(at + ahead), __builtin_prefetch(at + ahead + lines - 1);
    if (width == 2 * lane_count && lines == width) {
      store(out, load(at));
      store(out + lane_count, load(at + lane_count));
      continue;
    }
    if (width <= lane_count) {
      store_packed(out, load_floats<DType::f32>(at, 0, lines), width, end - out);
      continue;
    }
    for (int line = 0; line < width; line += lane_count) {
      const int present = lines - line;
      const Floats a = present > 0 ? load_floats<DType::f32>(at, line, present) : splat(0.0f);
      store_first(out + line, a, width - line);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
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
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void multiply_column(const float* x, const float* w, Floats (&sum)[Tokens][2]) noexcept {
  const Floats w0 = load(w), w1 = load(w + lane_count);
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    const Floats xt = splat(x[t]);
    sum[t][0] = multiply_add(w0, xt, sum[t][0]);
    sum[t][1] = multiply_add(w1, xt, sum[t][1]);
  }
}

template <int Tokens>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void multiply_tile(const float* x, const float* w, int count, float* y,
                                          std::ptrdiff_t y_stride, int tokens, int rows,
                                          bool accumulate, Ahead ahead) noexcept {
  constexpr int steps = 24 / dense_tile_tokens;  // for one line ahead
  Floats sum[Tokens][2];
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    const bool read = accumulate && t < tokens;
    const float* at = y + t * y_stride;
    sum[t][0] = read ? load_floats<DType::f32>(at, 0, rows) : splat(0.0f);
    sum[t][1] = read && rows > lane_count ? load_row(at, lane_count, rows) : splat(0.0f);
  }
  int k = 0;
  for (; ahead.bytes > 0 && k + steps <= count;
       k += steps, x += steps * Tokens, w += steps * dense_panel_rows) {
    ahead.fetch();
#pragma GCC unroll 4
    for (int i = 0; i < steps; ++i)
      multiply_column<Tokens>(x + i * Tokens, w + i * dense_panel_rows, sum);
  }
#pragma GCC unroll 4
  for (; k < count; ++k, x += Tokens, w += dense_panel_rows) multiply_column<Tokens>(x, w, sum);
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    if (t < tokens) {
      store_first(y + t * y_stride, sum[t][0], rows);
      if (rows > lane_count)
        store_first(y + t * y_stride + lane_count, sum[t][1], rows - lane_count);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void dense_tile(const float* x, int width, const float* w, int count,
                                       float* y, std::ptrdiff_t y_stride, int tokens, int rows,
                                       bool accumulate, Ahead ahead) noexcept {
  constexpr int step = dense_tile_step;
  if (width == 3 * step)
    return multiply_tile<3 * step>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  if (width == 2 * step)
    return multiply_tile<2 * step>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
  multiply_tile<step>(x, w, count, y, y_stride, tokens, rows, accumulate, ahead);
}

}  // namespace bisup::BISUP_LANES
