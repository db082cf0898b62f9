// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON add combinations of few rows, the second factor of a low-rank branch? Four tokens
// by 8 columns of y stay in registers while the rows pass.
// Limit: two multiply-adds a cycle; for one token, the conversions from half precision.
// Registers: 8 of sums, 2 of rows, 1 of x.
// Lost: dot products of the factor stored the other way round, whose sums over lanes cost more
// than all else: a branch of rank 9 took 46 % of the instructions of a decoding step (AVX2).

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>

#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/neon/lanes.hpp>

namespace bisup::neon {

template <DType Type, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void combine_block(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                       int cols, const float* x, std::ptrdiff_t x_stride, float* y,
                                       std::ptrdiff_t y_stride) noexcept {
  Floats sum[Tokens];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) sum[t] = load_floats<DType::f32>(y, t * y_stride, cols);
  for (int k = 0; k < count; ++k) {
    const Floats row = load_floats<Type>(rows.data, k * rows.stride + first, cols);
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) sum[t] = multiply_add(splat(x[t * x_stride + k]), row, sum[t]);
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) store_first(y + t * y_stride, sum[t], cols);
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void combine_of(const DenseOperand& rows, int count, int first, int cols,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  for (int c = 0; c < cols; c += 8) {
    const int left = cols - c < 8 ? cols - c : 8;
    int t = 0;
    for (; t + 4 <= tokens; t += 4) {
      combine_block<Type, 4>(rows, count, first + c, left, x + t * x_stride, x_stride,
                             y + t * y_stride + c, y_stride);
    }
    for (; t < tokens; ++t) {
      combine_block<Type, 1>(rows, count, first + c, left, x + t * x_stride, x_stride,
                             y + t * y_stride + c, y_stride);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
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

}  // namespace bisup::neon
#endif
