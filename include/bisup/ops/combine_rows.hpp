// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does what a low rank left over come back to full width? Every token adds its combination of a
// few rows, which are read where they lie; ops/gemm_dense.hpp is for weights with long rows.
// Bit-identical for any number of threads.

#include <algorithm>

#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dense_gemm.hpp>

namespace bisup {

// y += x rows with the stated kernel; tests compare targets with it.
inline void combine_rows_with(DenseCombineFn kernel, const DenseView& rows,
                              MatrixRef<const float> x, MatrixRef<float> y, ThreadPool& pool) {
  BISUP_EXPECTS(x.cols() == rows.rows && y.cols() == rows.cols && x.rows() == y.rows());
  if (y.empty()) return;
  const DenseOperand operand{rows.data, rows.type, rows.cols};
  // Columns of the rows that fill the first cache at most (32 KiB), for sixteen tokens each.
  constexpr int tokens = 16, multiple = 64;
  const int column_bytes = std::max(1, rows.rows * bytes_of(rows.type));
  const int cols = std::max(1, (32 << 10) / column_bytes / multiple) * multiple;
  const int parts = (rows.cols + cols - 1) / cols;
  pool.parallel_for((x.rows() + tokens - 1) / tokens * parts, [&](int task, int) {
    const int token = task / parts * tokens, first = task % parts * cols;
    kernel(operand, rows.rows, first, std::min(cols, rows.cols - first), x.row_data(token),
           x.stride(), std::min(tokens, x.rows() - token), y.row_data(token) + first, y.stride());
  });
}

// y += x rows. Requires x [tokens, rows.rows], y [tokens, rows.cols]; y must not overlap the
// others.
inline void combine_rows(const DenseView& rows, MatrixRef<const float> x, MatrixRef<float> y,
                         ThreadPool& pool) {
  combine_rows_with(dense_combine_kernel(), rows, x, y, pool);
}

}  // namespace bisup
