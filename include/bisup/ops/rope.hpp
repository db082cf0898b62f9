// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do queries and keys learn their positions? Dimensions i and i + head_dim / 2 of every head
// turn by the angle of pair i, as Hugging Face orders them; the angles are the caller's
// (llama/rope_table.hpp).

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

// x: [tokens, heads * head_dim], in place; cosines and sines: [tokens, head_dim / 2], one row a
// token.
inline void rope(MatrixRef<float> x, MatrixRef<const float> cosines, MatrixRef<const float> sines,
                 ThreadPool& pool) {
  const int half = cosines.cols();
  BISUP_EXPECTS(cosines.rows() == x.rows() && sines.rows() == x.rows() && sines.cols() == half);
  BISUP_EXPECTS(half > 0 && x.cols() % (2 * half) == 0);
  const auto kernel = vector_kernels().rope;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int row) {
    kernel(x.row_data(row), x.cols() / (2 * half), half, cosines.row_data(row),
           sines.row_data(row));
  });
}

}  // namespace bisup
