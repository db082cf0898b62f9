// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a branch join the residual stream, or a bias an output? By addition.

#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

// y += x.
inline void add(MatrixRef<const float> x, MatrixRef<float> y, ThreadPool& pool) {
  BISUP_EXPECTS(x.rows() == y.rows() && x.cols() == y.cols());
  const auto kernel = vector_kernels().add;
  detail::over_rows(x.rows(), x.cols(), pool,
                    [&](int row) { kernel(x.row_data(row), x.cols(), y.row_data(row)); });
}

// The same x to every row of y.                                            // [cols], [rows, cols]
inline void add(std::span<const float> x, MatrixRef<float> y, ThreadPool& pool) {
  BISUP_EXPECTS(static_cast<int>(x.size()) == y.cols());
  const auto kernel = vector_kernels().add;
  detail::over_rows(y.rows(), y.cols(), pool,
                    [&](int row) { kernel(x.data(), y.cols(), y.row_data(row)); });
}

}  // namespace bisup
