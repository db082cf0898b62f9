// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are the two halves of the MLP joined? silu(gate) * up, silu(g) = g / (1 + exp(-g)).

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

// y = silu(gate) * up. y may be gate or up.
inline void swiglu(MatrixRef<const float> gate, MatrixRef<const float> up, MatrixRef<float> y,
                   ThreadPool& pool) {
  BISUP_EXPECTS(gate.rows() == y.rows() && gate.cols() == y.cols());
  BISUP_EXPECTS(up.rows() == y.rows() && up.cols() == y.cols());
  const auto kernel = vector_kernels().swiglu;
  detail::over_rows(y.rows(), y.cols(), pool, [&](int row) {
    kernel(gate.row_data(row), up.row_data(row), y.cols(), y.row_data(row));
  });
}

}  // namespace bisup
