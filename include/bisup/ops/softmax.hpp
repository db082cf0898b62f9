// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do scores become weights? Softmax of each row, or of the first of it that is visible.

#include <algorithm>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

// x = exp(x - max x) / sum, row by row, in place. A row with NaN, or all -infinity, becomes NaN.
inline void softmax(MatrixRef<float> x, ThreadPool& pool) {
  const auto kernel = vector_kernels().softmax;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int row) { kernel(x.row_data(row), x.cols()); });
}

// The same over the first lengths[row] columns of each row; what is beyond becomes zero.
inline void softmax(MatrixRef<float> x, std::span<const int> lengths, ThreadPool& pool) {
  BISUP_EXPECTS(lengths.size() == static_cast<std::size_t>(x.rows()));
  BISUP_EXPECTS(std::all_of(lengths.begin(), lengths.end(),
                            [&](int length) { return length >= 0 && length <= x.cols(); }));
  const auto kernel = vector_kernels().softmax;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int row) {
    const int length = lengths[static_cast<std::size_t>(row)];
    kernel(x.row_data(row), length);
    std::fill(x.row_data(row) + length, x.row_data(row) + x.cols(), 0.0f);
  });
}

}  // namespace bisup
