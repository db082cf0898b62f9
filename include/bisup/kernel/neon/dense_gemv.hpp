// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON multiply weights by one to eight tokens? It streams eight rows (four for
// more tokens) once, converting as it reads; nothing is packed.
// Limit: the bandwidth of whatever holds the weights; in cache, one load of weights a multiply-add.
// Registers: 16 of sums, 4 of x, 2 of weights; four tokens at once would need 42.
// Not tried: fewer rows in flight for long rows.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>

#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/neon/lanes.hpp>

namespace bisup::neon {

template <int Lines>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void prefetch_lines(const char* from) noexcept {
  if constexpr (Lines > 0) {
    __builtin_prefetch(from);
    prefetch_lines<Lines - 1>(from + 64);
  }
}

// One block of Rows rows by Tokens tokens; rows beyond `rows` repeat the last one and are not
// stored.
template <DType Type, int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void gemv_block(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, float* y,
                                    std::ptrdiff_t y_stride, const char* next) noexcept {
  std::ptrdiff_t at[Rows];
  Floats sum[Rows][Tokens];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    at[r] = (first_row + (r < rows ? r : rows - 1)) * w.stride;
#pragma GCC unroll 2
    for (int t = 0; t < Tokens; ++t) sum[r][t] = splat(0.0f);
  }
  const int whole = count / 8 * 8;
  for (int k = 0; k < whole; k += 8) {
    if (next != nullptr) {
      constexpr int lines = 8 * Rows * bytes_of(Type) / 64;
      prefetch_lines<lines>(next);
      next += lines * 64;
    }
    Floats xt[Tokens];
#pragma GCC unroll 2
    for (int t = 0; t < Tokens; ++t) xt[t] = load(x + t * x_stride + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Floats wr = load_floats<Type>(w.data, at[r] + k, 8);
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) sum[r][t] = multiply_add(wr, xt[t], sum[r][t]);
    }
  }
  if (whole < count) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Floats wr = load_floats<Type>(w.data, at[r] + whole, count - whole);
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) {
        sum[r][t] = multiply_add(
            wr, load_floats<DType::f32>(x, t * x_stride + whole, count - whole), sum[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int t = 0; t < Tokens; ++t) {
      if (r < rows) y[t * y_stride + r] = sum_lanes(sum[r][t]);
    }
  }
}

// Where the next block of rows begins if it is worth fetching while this one is multiplied: short
// rows end before the processor's own prefetching has noticed them, long blocks would evict each
// other.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE const
    char* next_rows(const DenseOperand& w, int row, int rows, int elements) noexcept {
  if (rows <= 0 || elements * bytes_of(Type) > (20 << 10)) return nullptr;
  return static_cast<const char*>(w.data) + row * w.stride * bytes_of(Type);
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void gemv_of(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                    std::ptrdiff_t y_stride) noexcept {
  const int step = tokens == 1 ? 8 : 4;
  for (int r = 0; r < rows; r += step) {
    const int left = rows - r < step ? rows - r : step;
    const char* next = next_rows<Type>(w, first_row + r + step, rows - r - step, step * count);
    if (tokens == 1) {
      gemv_block<Type, 8, 1>(w, first_row + r, left, count, x, x_stride, y + r, y_stride, next);
      continue;
    }
    int t = 0;
    for (; t + 2 <= tokens; t += 2) {
      gemv_block<Type, 4, 2>(w, first_row + r, left, count, x + t * x_stride, x_stride,
                             y + t * y_stride + r, y_stride, t == 0 ? next : nullptr);
    }
    if (t < tokens) {
      gemv_block<Type, 4, 1>(w, first_row + r, left, count, x + t * x_stride, x_stride,
                             y + t * y_stride + r, y_stride, t == 0 ? next : nullptr);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void dense_gemv(const DenseOperand& w, int first_row, int rows, int count,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  switch (w.type) {
    case DType::f32:
      return gemv_of<DType::f32>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
    case DType::f16:
      return gemv_of<DType::f16>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
    case DType::bf16:
      return gemv_of<DType::bf16>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
    case DType::i8:
      return gemv_of<DType::i8>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
  }
}

}  // namespace bisup::neon
#endif
