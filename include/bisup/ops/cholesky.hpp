// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a matrix of second moments factored? A = L L^T by halves, through dense products; leaves
// are factored in double. inverse_factor() gives the triangle that GPTQ walks along. Bit-identical
// for any number of threads.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/gemm_blocks.hpp>
#include <bisup/ops/triangular.hpp>

namespace bisup {

namespace detail {

// Returns the first pivot that is not positive and finite, or -1.
inline int factor_leaf(MatrixRef<float> a) {
  std::array<std::array<double, triangle_leaf>, triangle_leaf> l;
  for (int i = 0; i < a.rows(); ++i) {
    auto& row = l[static_cast<std::size_t>(i)];
    for (int j = 0; j <= i; ++j) {
      const auto& other = l[static_cast<std::size_t>(j)];
      double sum = a(i, j);
      for (std::size_t k = 0; k < static_cast<std::size_t>(j); ++k) sum -= row[k] * other[k];
      if (i == j && !(sum > 0 && std::isfinite(sum))) return i;
      const double value = i == j ? std::sqrt(sum) : sum / other[static_cast<std::size_t>(j)];
      row[static_cast<std::size_t>(j)] = value;
      a(i, j) = static_cast<float>(value);
    }
  }
  return -1;
}

inline int factor(MatrixRef<float> a, ThreadPool& pool) {
  if (a.rows() <= triangle_leaf) return factor_leaf(a);
  const Quarters part(a);
  if (const int pivot = factor(part.a11, pool); pivot >= 0) return pivot;
  solve_lower(part.a11, part.a21, pool);
  negate(part.a22, pool);
  const DenseOperand lines{part.a21.data(), DType::f32, part.a21.stride()};
  multiply_blocks(dense_gemm_kernel(),
                  {.x = lines,
                   .w = lines,
                   .count = part.half,
                   .y = part.a22,
                   .accumulate = true,
                   .lower_triangle = true},
                  pool);
  negate(part.a22, pool);
  const int pivot = factor(part.a22, pool);
  return pivot < 0 ? pivot : part.half + pivot;
}

inline Error not_definite(int pivot) {
  return {Errc::not_definite,
          "pivot " + std::to_string(pivot) + " of a Cholesky factorisation is not positive"};
}

}  // namespace detail

// A becomes L with A = L L^T, in place, on and below the diagonal; what lies above is not read, and
// unspecified afterwards. Requires a square. Errors: not_definite, naming the pivot.
inline Result<void> cholesky(MatrixRef<float> a, ThreadPool& pool) {
  BISUP_EXPECTS(a.rows() == a.cols());
  if (const int pivot = detail::factor(a, pool); pivot >= 0) {
    return detail::not_definite(pivot);
  }
  return {};
}

// The upper triangular U with H^-1 = U^T U, zeros below its diagonal. With P the reversal of rows
// and columns, P H P = L L^T gives U = P L^-1 P: no inverse is formed and factored again, which
// saves half the work and the square of the condition. Requires h square; only what is on and above
// its diagonal is read. Errors: not_definite, naming the pivot.
inline Result<Matrix<float>> inverse_factor(Matrix<float> h, ThreadPool& pool) {
  BISUP_EXPECTS(h.rows() == h.cols());
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(h.rows()) * h.cols();
  std::reverse(h.data(), h.data() + count);  // row-major: rows and columns at once
  if (const int pivot = detail::factor(h.ref(), pool); pivot >= 0) {
    return detail::not_definite(h.rows() - 1 - pivot);
  }
  invert_lower(h.ref(), pool);
  for (int r = 0; r < h.rows(); ++r) {
    std::fill(h.ref().row_data(r) + r + 1, h.ref().row_data(r) + h.cols(), 0.0f);
  }
  std::reverse(h.data(), h.data() + count);
  return h;
}

}  // namespace bisup
