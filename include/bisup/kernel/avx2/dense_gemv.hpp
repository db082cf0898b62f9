// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 multiply weights by one to eight tokens? It streams eight rows (four for
// more tokens) once, converting as it reads; nothing is packed.
// Limit: the bandwidth of whatever holds the weights; in cache, one load of weights a multiply-add.
// Registers: 12 sums, 3 of x, 1 of weights: all sixteen.
// Not tried: fewer rows in flight for long rows.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/dense_operand.hpp>

namespace bisup::avx2 {

template <int Lines>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void prefetch_lines(const char* from) noexcept {
  if constexpr (Lines > 0) {
    _mm_prefetch(from, _MM_HINT_T0);
    prefetch_lines<Lines - 1>(from + 64);
  }
}

// One block of Rows rows by Tokens tokens; rows beyond `rows` repeat the last one and are not
// stored.
template <DType Type, int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void gemv_block(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, float* y,
                                    std::ptrdiff_t y_stride, const char* next) noexcept {
  std::ptrdiff_t at[Rows];
  __m256 sum[Rows][Tokens];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    at[r] = (first_row + (r < rows ? r : rows - 1)) * w.stride;
#pragma GCC unroll 3
    for (int t = 0; t < Tokens; ++t) sum[r][t] = _mm256_setzero_ps();
  }
  const int whole = count / 8 * 8;
  for (int k = 0; k < whole; k += 8) {
    if (next != nullptr) {
      constexpr int bytes = 8 * Rows * bytes_of(Type);
      prefetch_lines<(bytes + 63) / 64>(next);
      next += bytes;
    }
    __m256 xt[Tokens];
#pragma GCC unroll 3
    for (int t = 0; t < Tokens; ++t) xt[t] = _mm256_loadu_ps(x + t * x_stride + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m256 wr = load_floats<Type>(w.data, at[r] + k, 8);
#pragma GCC unroll 3
      for (int t = 0; t < Tokens; ++t) sum[r][t] = _mm256_fmadd_ps(wr, xt[t], sum[r][t]);
    }
  }
  if (whole < count) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m256 wr = load_floats<Type>(w.data, at[r] + whole, count - whole);
#pragma GCC unroll 3
      for (int t = 0; t < Tokens; ++t) {
        sum[r][t] = _mm256_fmadd_ps(
            wr, load_floats<DType::f32>(x, t * x_stride + whole, count - whole), sum[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 3
    for (int t = 0; t < Tokens; ++t) {
      if (r < rows) y[t * y_stride + r] = sum_lanes(sum[r][t]);
    }
  }
}

// Where the next block of rows begins if it is worth fetching while this one is multiplied: short
// rows end before the processor's own prefetching has noticed them, long blocks would evict each
// other.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE const
    char* next_rows(const DenseOperand& w, int row, int rows, int elements) noexcept {
  if (rows <= 0 || elements * bytes_of(Type) > (20 << 10)) return nullptr;
  return static_cast<const char*>(w.data) + row * w.stride * bytes_of(Type);
}

// Up to Rows rows by all tokens, three at a time.
template <DType Type, int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void gemv_rows(const DenseOperand& w, int first_row, int rows, int count,
                                   const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                   std::ptrdiff_t y_stride, const char* next) noexcept {
  int t = 0;
  for (; t + 3 <= tokens; t += 3) {
    gemv_block<Type, Rows, 3>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
  if (tokens - t == 2) {
    gemv_block<Type, Rows, 2>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  } else if (tokens - t == 1) {
    gemv_block<Type, Rows, 1>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void gemv_of(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                    std::ptrdiff_t y_stride) noexcept {
  const int most = tokens == 1 ? 8 : 4;
  for (int r = 0; r < rows; r += most) {
    const int left = rows - r < most ? rows - r : most;
    const char* next = next_rows<Type>(w, first_row + r + most, rows - r - most, most * count);
    if (left == 1) {
      gemv_rows<Type, 1>(w, first_row + r, 1, count, x, x_stride, tokens, y + r, y_stride, next);
    } else if (left <= 4) {
      gemv_rows<Type, 4>(w, first_row + r, left, count, x, x_stride, tokens, y + r, y_stride, next);
    } else {
      gemv_block<Type, 8, 1>(w, first_row + r, left, count, x, x_stride, y + r, y_stride, next);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
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

}  // namespace bisup::avx2
#endif
