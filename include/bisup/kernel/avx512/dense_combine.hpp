// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 add combinations of few rows, the second factor of a low-rank branch? Four
// tokens by 32 columns of y stay in registers while the rows pass.
// Limit: two multiply-adds a cycle; for one token, the conversions to floats.
// Registers: 8 sums, 2 of rows, 1 broadcast.
// Lost: dot products of the factor stored the other way round, whose sums over lanes cost more
// than all else: a branch of rank 9 took 46 % of the instructions of a decoding step (AVX2).

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/dense_operand.hpp>

namespace bisup::avx512 {

template <DType Type, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void combine_block(const DenseOperand& rows, int count, std::ptrdiff_t first,
                                       int cols, const float* x, std::ptrdiff_t x_stride, float* y,
                                       std::ptrdiff_t y_stride) noexcept {
  const __mmask16 mask[2] = {first_lanes(cols), first_lanes(cols < 16 ? 0 : cols - 16)};
  __m512 sum[Tokens][2];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
      sum[t][i] = _mm512_maskz_loadu_ps(mask[i], y + t * y_stride + 16 * i);
  }
  for (int k = 0; k < count; ++k) {
    const std::ptrdiff_t at = k * rows.stride + first;
    const __m512 row[2] = {load_floats<Type>(rows.data, at, mask[0]),
                           load_floats<Type>(rows.data, at + 16, mask[1])};
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const __m512 xt = _mm512_set1_ps(x[t * x_stride + k]);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) sum[t][i] = _mm512_fmadd_ps(xt, row[i], sum[t][i]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
      _mm512_mask_storeu_ps(y + t * y_stride + 16 * i, mask[i], sum[t][i]);
  }
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void combine_of(const DenseOperand& rows, int count, int first, int cols,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  for (int c = 0; c < cols; c += 32) {
    const int left = cols - c < 32 ? cols - c : 32;
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

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
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

}  // namespace bisup::avx512
#endif
