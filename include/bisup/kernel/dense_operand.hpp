// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the kernels of dense products take? Operands with a stride, the pieces of a blocked
// product (pack, then multiply tiles), a product for a few tokens, and one with a few rows.
// kernel/dense_gemm.hpp says who provides them.

#include <cstddef>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/ahead.hpp>

namespace bisup {

// A matrix of lines that run along the summed index k. Element (line, k) lies at line * stride + k,
// or at k * stride + line when lines are columns of what is stored (f32 only).
struct DenseOperand {
  const void* data = nullptr;
  DType type = DType::f32;
  std::ptrdiff_t stride = 0;  // elements
  bool lines_are_columns = false;

  // The same lines from k on.
  [[nodiscard]] DenseOperand from(int k) const noexcept {
    DenseOperand rest = *this;
    const std::ptrdiff_t elements = lines_are_columns ? k * stride : k;
    rest.data = static_cast<const char*>(data) + elements * bytes_of(type);
    return rest;
  }
};

// Copies lines [first, first + lines) and k in [first_k, first_k + count) to out, [count, width] as
// f32; columns of out from `lines` on are zero. Requires 0 < lines <= width.
using DensePackFn = void (*)(const DenseOperand& from, int first, int lines, int first_k, int count,
                             int width, float* out) noexcept;

// y[t, r] = (accumulate ? y[t, r] : 0) + sum over k of x[k, t] w[k, r], one chain of fused
// multiply-adds in the order of k, so that blocks of k and the shapes of tiles leave no trace in
// the result. x is [count, width], w is [count, panel_rows]; only the first `tokens` x `rows` of y
// are touched. Lines of `ahead` are asked for one by one: all at once they wait for each other.
using DenseTileFn = void (*)(const float* x, int width, const float* w, int count, float* y,
                             std::ptrdiff_t y_stride, int tokens, int rows, bool accumulate,
                             Ahead ahead) noexcept;

struct DenseGemmKernel {
  int tile_tokens;  // width of a packed tile of x; the last one may be narrower by multiples of
                    // tile_step
  int tile_step;
  int panel_rows;  // width of a packed panel of w
  DensePackFn pack;
  DenseTileFn multiply;
};

// y[t, r] = sum over k of w[first_row + r, k] x[t, k] for up to gemv_tokens tokens. Each output is
// summed in an order that does not depend on the tokens and rows beside it.
inline constexpr int gemv_tokens = 8;
using DenseGemvFn = void (*)(const DenseOperand& w, int first_row, int rows, int count,
                             const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                             std::ptrdiff_t y_stride) noexcept;

// y[t, c] += sum over k of x[t, k] rows[k, first + c] for c in [0, cols): every token's combination
// of a few rows, one chain of fused multiply-adds in the order of k. Rows are the operand's lines.
using DenseCombineFn = void (*)(const DenseOperand& rows, int count, int first, int cols,
                                const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                std::ptrdiff_t y_stride) noexcept;

}  // namespace bisup
