// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 add combinations of few rows, the second factor of a low-rank branch? Four tokens
// by 16 columns of y (one by 64) stay in registers while the rows pass.
// Limit: two multiply-adds a cycle; for one token, the conversions to floats.
// Registers: 8 sums, 2 of rows, 1 broadcast.
// Lost: dot products of the factor stored the other way round, whose sums over lanes cost more
// than all else: a branch of rank 9 took 46 % of the instructions of a decoding step (AVX2).

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/dense_operand.hpp>

namespace bisup::avx2 {

template <DType Type, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void combine_block(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                       int cols, const float* x, std::ptrdiff_t x_stride, float* y,
                                       std::ptrdiff_t y_stride) noexcept {
  const int second = cols - 8;
  __m256 sum[Tokens][2];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    sum[t][0] = load_floats<DType::f32>(y, t * y_stride, cols);
    sum[t][1] =
        second > 0 ? load_floats<DType::f32>(y, t * y_stride + 8, second) : _mm256_setzero_ps();
  }
  for (int k = 0; k < count; ++k) {
    const std::ptrdiff_t at = k * rows.stride + first;
    const __m256 row0 = load_floats<Type>(rows.data, at, cols);
    const __m256 row1 =
        second > 0 ? load_floats<Type>(rows.data, at + 8, second) : _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const __m256 xt = _mm256_broadcast_ss(x + t * x_stride + k);
      sum[t][0] = _mm256_fmadd_ps(xt, row0, sum[t][0]);
      sum[t][1] = _mm256_fmadd_ps(xt, row1, sum[t][1]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    store_first(y + t * y_stride, sum[t][0], cols);
    if (second > 0) store_first(y + t * y_stride + 8, sum[t][1], second);
  }
}

// 64 whole columns of one token.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void combine_wide(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                      const float* x, float* y) noexcept {
  __m256 sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sum[i] = _mm256_loadu_ps(y + 8 * i);
  for (int k = 0; k < count; ++k, first += rows.stride) {
    const __m256 xk = _mm256_broadcast_ss(x + k);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      sum[i] = _mm256_fmadd_ps(xk, load_floats<Type>(rows.data, first + 8 * i, 8), sum[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) _mm256_storeu_ps(y + 8 * i, sum[i]);
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void combine_columns(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                         int cols, const float* x, std::ptrdiff_t x_stride,
                                         int tokens, float* y, std::ptrdiff_t y_stride) noexcept {
  int t = 0;
  for (; t + 4 <= tokens; t += 4) {
    combine_block<Type, 4>(rows, count, first, cols, x + t * x_stride, x_stride, y + t * y_stride,
                           y_stride);
  }
  for (; t < tokens; ++t) {
    combine_block<Type, 1>(rows, count, first, cols, x + t * x_stride, x_stride, y + t * y_stride,
                           y_stride);
  }
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void combine_of(const DenseOperand& rows, int count, int first, int cols,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  int c = 0;
  for (; tokens == 1 && c + 64 <= cols; c += 64)
    combine_wide<Type>(rows, count, first + c, x, y + c);
  for (; c + 16 <= cols; c += 16)
    combine_columns<Type>(rows, count, first + c, 16, x, x_stride, tokens, y + c, y_stride);
  if (c < cols) {
    combine_columns<Type>(rows, count, first + c, cols - c, x, x_stride, tokens, y + c, y_stride);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void dense_combine(const DenseOperand& rows, int count, int first, int cols,
                                          const float* x, std::ptrdiff_t x_stride, int tokens,
                                          float* y, std::ptrdiff_t y_stride) noexcept {
  switch (rows.type) {
    case DType::f32:
      return combine_of<DType::f32>(rows, count, first, cols, x, x_stride, tokens, y, y_stride);
    case DType::f16:
      return combine_of<DType::f16>(rows, count, first, cols, x, x_stride, tokens, y, y_stride);
    case DType::bf16:
      return combine_of<DType::bf16>(rows, count, first, cols, x, x_stride, tokens, y, y_stride);
    case DType::i8:
      return combine_of<DType::i8>(rows, count, first, cols, x, x_stride, tokens, y, y_stride);
  }
}

}  // namespace bisup::avx2
#endif
