// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the pieces of a dense product compute? The scalar form of kernel/dense_operand.hpp, for
// processors without a kernel of their own; scalar::gemm is the specification of the whole product.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/core/float16.hpp>
#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::scalar {

BISUP_SCALAR inline float element(const DenseOperand& m, std::ptrdiff_t line,
                                  std::ptrdiff_t k) noexcept {
  const std::ptrdiff_t at = m.lines_are_columns ? k * m.stride + line : line * m.stride + k;
  switch (m.type) {
    case DType::f16: return to_float(static_cast<const Half*>(m.data)[at]);
    case DType::bf16: return to_float(static_cast<const BFloat16*>(m.data)[at]);
    case DType::i8: return static_cast<float>(static_cast<const std::int8_t*>(m.data)[at]);
    case DType::f32: break;
  }
  return static_cast<const float*>(m.data)[at];
}

BISUP_SCALAR inline void dense_pack(const DenseOperand& from, int first, int lines, int first_k,
                                    int count, int width, float* out) noexcept {
  for (int k = 0; k < count; ++k) {
    for (int i = 0; i < width; ++i)
      out[k * width + i] = i < lines ? element(from, first + i, first_k + k) : 0;
  }
}

inline constexpr int dense_panel_rows = 8;

BISUP_SCALAR inline void dense_tile(const float* x, int width, const float* w, int count, float* y,
                                    std::ptrdiff_t y_stride, int tokens, int rows, bool accumulate,
                                    Ahead) noexcept {
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < rows; ++r) {
      float sum = accumulate ? y[t * y_stride + r] : 0;
      for (int k = 0; k < count; ++k) sum += x[k * width + t] * w[k * dense_panel_rows + r];
      y[t * y_stride + r] = sum;
    }
  }
}

BISUP_SCALAR inline void dense_gemv(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                    std::ptrdiff_t y_stride) noexcept {
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < rows; ++r) {
      float sum = 0;
      for (int k = 0; k < count; ++k) sum += element(w, first_row + r, k) * x[t * x_stride + k];
      y[t * y_stride + r] = sum;
    }
  }
}

BISUP_SCALAR inline void dense_combine(const DenseOperand& rows, int count, int first, int cols,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < cols; ++c) {
      float& sum = y[t * y_stride + c];
      for (int k = 0; k < count; ++k) sum += x[t * x_stride + k] * element(rows, k, first + c);
    }
  }
}

}  // namespace bisup::scalar
