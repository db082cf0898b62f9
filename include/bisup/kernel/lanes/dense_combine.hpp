// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are combinations of few rows added, the second factor of a low-rank branch? Four tokens by
// two registers of columns of y (one token by eight) stay in registers while the rows pass.
// Included by each_target.hpp.
// Limit: two multiply-adds a cycle; for one token, the conversions to floats.
// Registers: 8 sums, 2 of rows, 1 broadcast.
// Lost: dot products of the factor stored the other way round, whose sums over lanes cost more
// than all else: a branch of rank 9 took 46 % of the instructions of a decoding step (AVX2).

#include <cstddef>

#include <bisup/kernel/dense_operand.hpp>

namespace bisup::BISUP_LANES {

template <DType Type, int Tokens>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void combine_block(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                       int cols, const float* x, std::ptrdiff_t x_stride, float* y,
                                       std::ptrdiff_t y_stride) noexcept {
  const int second = cols - lane_count;
  Floats sum[Tokens][2];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    sum[t][0] = load_floats<DType::f32>(y, t * y_stride, cols);
    sum[t][1] =
        second > 0 ? load_floats<DType::f32>(y, t * y_stride + lane_count, second) : splat(0.0f);
  }
  for (int k = 0; k < count; ++k) {
    const std::ptrdiff_t at = k * rows.stride + first;
    const Floats row0 = load_floats<Type>(rows.data, at, cols);
    const Floats row1 =
        second > 0 ? load_floats<Type>(rows.data, at + lane_count, second) : splat(0.0f);
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const Floats xt = splat(x[t * x_stride + k]);
      sum[t][0] = multiply_add(xt, row0, sum[t][0]);
      sum[t][1] = multiply_add(xt, row1, sum[t][1]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    store_first(y + t * y_stride, sum[t][0], cols);
    if (second > 0) store_first(y + t * y_stride + lane_count, sum[t][1], second);
  }
}

// Eight registers of whole columns of one token.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void combine_wide(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                      const float* x, float* y) noexcept {
  Floats sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sum[i] = load(y + lane_count * i);
  for (int k = 0; k < count; ++k, first += rows.stride) {
    const Floats xk = splat(x[k]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      sum[i] = multiply_add(xk, load_floats<Type>(rows.data, first + lane_count * i, lane_count),
                            sum[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) store(y + lane_count * i, sum[i]);
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
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
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void combine_of(const DenseOperand& rows, int count, int first, int cols,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  constexpr int wide = 8 * lane_count, block = 2 * lane_count;
  int c = 0;
  for (; tokens == 1 && c + wide <= cols; c += wide)
    combine_wide<Type>(rows, count, first + c, x, y + c);
  for (; c + block <= cols; c += block)
    combine_columns<Type>(rows, count, first + c, block, x, x_stride, tokens, y + c, y_stride);
  if (c < cols) {
    combine_columns<Type>(rows, count, first + c, cols - c, x, x_stride, tokens, y + c, y_stride);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
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

}  // namespace bisup::BISUP_LANES
