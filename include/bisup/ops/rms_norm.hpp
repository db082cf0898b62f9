// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are activations normalised? Each row by its root mean square, then times a weight a feature.

#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

// y = x / sqrt(mean(x^2) + eps) * weight, row by row. y may be x.
inline void rms_norm(MatrixRef<const float> x, std::span<const float> weight, float eps,
                     MatrixRef<float> y, ThreadPool& pool) {
  BISUP_EXPECTS(x.rows() == y.rows() && x.cols() == y.cols());
  BISUP_EXPECTS(weight.size() == static_cast<std::size_t>(x.cols()));
  const auto kernel = vector_kernels().rms_norm;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int row) {
    kernel(x.row_data(row), weight.data(), x.cols(), eps, y.row_data(row));
  });
}

}  // namespace bisup
