// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are rows rotated by the normalised Walsh-Hadamard matrix? In place, in n log n additions; it
// is its own inverse. Other sizes than powers of two are the business of transform/.

#include <bit>
#include <cmath>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

// x = H x / sqrt(n), n = x.size(), a power of two.
inline void hadamard(std::span<float> x) {
  BISUP_EXPECTS(std::has_single_bit(x.size()));
  vector_kernels().hadamard(x.data(), static_cast<int>(x.size()),
                            1.0f / std::sqrt(static_cast<float>(x.size())));
}

// The same for every run of n columns in every row: a whole row, or each head of it.
inline void hadamard(MatrixRef<float> x, int n, ThreadPool& pool) {
  BISUP_EXPECTS(n > 0 && std::has_single_bit(static_cast<unsigned>(n)) && x.cols() % n == 0);
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  const auto kernel = vector_kernels().hadamard;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int row) {
    for (int col = 0; col < x.cols(); col += n) kernel(x.row_data(row) + col, n, scale);
  });
}

}  // namespace bisup
