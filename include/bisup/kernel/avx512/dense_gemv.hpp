// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 multiply weights by one to eight tokens? It streams eight rows (four for
// more tokens) once, converting as it reads; nothing is packed.
// Limit: the bandwidth of whatever holds the weights; in cache, one load of weights a multiply-add.
// Registers: up to 16 sums, 4 of x, 1 of weights, and the row pointers.
// Lost: leaving short rows to the processor (bf16 rows of 576: 0.4 of the read bandwidth, not 0.7).

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/dense_operand.hpp>

namespace bisup::avx512 {

template <int Lines>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void prefetch_lines(const char* from) noexcept {
  if constexpr (Lines > 0) {
    _mm_prefetch(from, _MM_HINT_T0);
    prefetch_lines<Lines - 1>(from + 64);
  }
}

// One block of Rows rows by Tokens tokens; rows beyond `rows` repeat the last one and are not
// stored.
template <DType Type, int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void gemv_block(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, float* y,
                                    std::ptrdiff_t y_stride, const char* next) noexcept {
  std::ptrdiff_t at[Rows];
  __m512 sum[Rows][Tokens];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    at[r] = (first_row + (r < rows ? r : rows - 1)) * w.stride;
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) sum[r][t] = _mm512_setzero_ps();
  }
  for (int k = 0; k < count; k += 16) {
    if (next != nullptr) {
      constexpr int lines = 16 * Rows * bytes_of(Type) / 64;
      prefetch_lines<lines>(next);
      next += lines * 64;
    }
    const __mmask16 mask = first_lanes(count - k);
    __m512 xt[Tokens];
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) xt[t] = _mm512_maskz_loadu_ps(mask, x + t * x_stride + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512 wr = load_floats<Type>(w.data, at[r] + k, mask);
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) sum[r][t] = _mm512_fmadd_ps(wr, xt[t], sum[r][t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      if (r < rows) y[t * y_stride + r] = sum_lanes(sum[r][t]);
    }
  }
}

// Where the next block of rows begins if it is worth fetching while this one is multiplied: short
// rows end before the processor's own prefetching has noticed them, long blocks would evict each
// other.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE const
    char* next_rows(const DenseOperand& w, int row, int rows, int elements) noexcept {
  if (rows <= 0 || elements * bytes_of(Type) > (20 << 10)) return nullptr;
  return static_cast<const char*>(w.data) + row * w.stride * bytes_of(Type);
}

// Up to Rows rows by all tokens, four at a time.
template <DType Type, int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void gemv_rows(const DenseOperand& w, int first_row, int rows, int count,
                                   const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                   std::ptrdiff_t y_stride, const char* next) noexcept {
  int t = 0;
  for (; t + 4 <= tokens; t += 4) {
    gemv_block<Type, Rows, 4>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
  for (; t + 2 <= tokens; t += 2) {
    gemv_block<Type, Rows, 2>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
  if (t < tokens) {
    gemv_block<Type, Rows, 1>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void gemv_of(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                    std::ptrdiff_t y_stride) noexcept {
  const int most = tokens == 1 ? 8 : 4;
  for (int r = 0; r < rows; r += most) {
    const int left = rows - r < most ? rows - r : most;
    const char* next = next_rows<Type>(w, first_row + r + most, rows - r - most, most * count);
    if (left == 1) {  // behind eight of a branch of rank 9, for one
      gemv_rows<Type, 1>(w, first_row + r, 1, count, x, x_stride, tokens, y + r, y_stride, next);
    } else if (left <= 4) {
      gemv_rows<Type, 4>(w, first_row + r, left, count, x, x_stride, tokens, y + r, y_stride, next);
    } else {
      gemv_block<Type, 8, 1>(w, first_row + r, left, count, x, x_stride, y + r, y_stride, next);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
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

}  // namespace bisup::avx512
#endif
