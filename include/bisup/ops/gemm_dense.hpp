// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are activations multiplied by unquantized weights? y[t, r] = sum over c of w[r, c] x[t, c];
// up to eight tokens stream the weights, more go through packed tiles, unless the weights have so
// few rows that packing x would cost more than multiplying it. Bit-identical for any number of
// threads. ops/matrix_product.hpp multiplies matrices in general.

#include <algorithm>

#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dense_gemm.hpp>
#include <bisup/ops/gemm_blocks.hpp>

namespace bisup {

namespace detail {

// Up to so many rows every token block streams the weights: the first factor of a low-rank branch.
// For 64 tokens by 9 rows of SmolLM2's linears packing x took more than half of the instructions.
inline constexpr int few_rows = 32;

}  // namespace detail

// y = x w^T with the stated kernels; tests compare targets with it.
inline void multiply_with(const DenseGemmKernel& gemm, DenseGemvFn gemv, const DenseView& w,
                          MatrixRef<const float> x, MatrixRef<float> y, ThreadPool& pool) {
  BISUP_EXPECTS(x.cols() == w.cols && y.cols() == w.rows && x.rows() == y.rows());
  if (y.empty()) return;
  const DenseOperand weights{w.data, w.type, w.cols};
  if (x.rows() > gemv_tokens && w.rows > detail::few_rows) {
    return detail::multiply_blocks(
        gemm, {.x = {x.data(), DType::f32, x.stride()}, .w = weights, .count = w.cols, .y = y},
        pool);
  }
  // Tasks of about 128 KiB of weights: long enough to stream, short enough to share.
  const int row_bytes = std::max(1, w.cols * bytes_of(w.type));
  const int rows = std::max(1, (128 << 10) / row_bytes / 8) * 8;
  const int parts = (w.rows + rows - 1) / rows, blocks = (x.rows() + gemv_tokens - 1) / gemv_tokens;
  pool.parallel_for(parts * blocks, [&](int task, int) {
    const int first = task % parts * rows, token = task / parts * gemv_tokens;
    gemv(weights, first, std::min(rows, w.rows - first), w.cols, x.row_data(token), x.stride(),
         std::min(gemv_tokens, x.rows() - token), y.row_data(token) + first, y.stride());
  });
}

// y = x w^T. Requires x [tokens, w.cols], y [tokens, w.rows]; y must not overlap x or w.
inline void multiply(const DenseView& w, MatrixRef<const float> x, MatrixRef<float> y,
                     ThreadPool& pool) {
  multiply_with(dense_gemm_kernel(), dense_gemv_kernel(), w, x, y, pool);
}

}  // namespace bisup
