// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are triangular systems solved? By halves: a triangle is two smaller ones and a square between
// them, and the square is a dense product. Leaves are inverted in double and multiplied. Halves
// depend on the size alone, so results are bit-identical for any number of threads.
// ops/cholesky.hpp makes the triangles.

#include <algorithm>
#include <array>
#include <cstddef>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

namespace detail {

// Leaves cost n^2 * leaf operations of plain code, products lose speed below this width.
inline constexpr int triangle_leaf = 64;

// Where a triangle is cut: the half, in whole leaves.
[[nodiscard]] constexpr int triangle_half(int n) {
  return (n / 2 + triangle_leaf - 1) / triangle_leaf * triangle_leaf;
}

// The four parts of a square matrix.
template <class T>
struct Quarters {
  explicit Quarters(MatrixRef<T> m)
      : half(triangle_half(m.rows())),
        rest(m.rows() - half),
        a11(m.rows(0, half).cols(0, half)),
        a21(m.rows(half, rest).cols(0, half)),
        a22(m.rows(half, rest).cols(half, rest)) {}
  int half, rest;
  MatrixRef<T> a11, a21, a22;
};

// Products only add; what is to be subtracted from is negated before and after, which is exact.
inline void negate(MatrixRef<float> m, ThreadPool& pool) {
  over_rows(m.rows(), m.cols(), pool, [&](int r) {
    float* row = m.row_data(r);
    for (int c = 0; c < m.cols(); ++c) row[c] = -row[c];
  });
}

[[nodiscard]] inline Matrix<float> copy_of(MatrixRef<const float> m) {
  Matrix<float> copy(m.rows(), m.cols());
  for (int r = 0; r < m.rows(); ++r) std::copy_n(m.row_data(r), m.cols(), copy.ref().row_data(r));
  return copy;
}

// L^-1 of a leaf, zeros above its diagonal. Row i is (e_i - sum over k < i of l_ik row k) / l_ii.
[[nodiscard]] inline Matrix<float> leaf_inverse(MatrixRef<const float> l) {
  const int n = l.rows();
  std::array<std::array<double, triangle_leaf>, triangle_leaf> inverse;
  Matrix<float> rounded(n, n);
  for (int i = 0; i < n; ++i) {
    auto& row = inverse[static_cast<std::size_t>(i)];
    row.fill(0), row[static_cast<std::size_t>(i)] = 1;
    for (int k = 0; k < i; ++k) {
      const auto& above = inverse[static_cast<std::size_t>(k)];
      const double factor = l(i, k);
      for (std::size_t j = 0; j <= static_cast<std::size_t>(k); ++j) row[j] -= factor * above[j];
    }
    for (int j = 0; j <= i; ++j) {
      auto& value = row[static_cast<std::size_t>(j)];
      value /= l(i, i);
      rounded(i, j) = static_cast<float>(value);
    }
  }
  return rounded;
}

// X = L X for a lower triangular L; what lies above its diagonal is not read.
inline void multiply_lower(MatrixRef<const float> l, MatrixRef<float> x, ThreadPool& pool) {
  const int n = l.rows();
  if (n <= triangle_leaf) {
    Matrix<float> leaf(n, n);
    for (int r = 0; r < n; ++r) std::copy_n(l.row_data(r), r + 1, leaf.ref().row_data(r));
    const Matrix<float> before = copy_of(x);
    return multiply(leaf.ref(), before.ref(), x, Into::replace, pool);
  }
  const Quarters part(l);
  const auto x1 = x.rows(0, part.half), x2 = x.rows(part.half, part.rest);
  multiply_lower(part.a22, x2, pool);
  multiply(part.a21, x1, x2, Into::add, pool);
  multiply_lower(part.a11, x1, pool);
}

}  // namespace detail

// Every row x of b becomes the solution y of L y = x. Requires l [n, n], of which only what is on
// and below the diagonal is read, with a diagonal without zeros; b [rows, n].
inline void solve_lower(MatrixRef<const float> l, MatrixRef<float> b, ThreadPool& pool) {
  BISUP_EXPECTS(l.rows() == l.cols() && b.cols() == l.rows());
  if (b.empty()) return;
  if (l.rows() <= detail::triangle_leaf) {
    const Matrix<float> before = detail::copy_of(b);
    return multiply_transposed(before.ref(), detail::leaf_inverse(l).ref(), b, Into::replace, pool);
  }
  const detail::Quarters part(l);
  const auto b1 = b.cols(0, part.half), b2 = b.cols(part.half, part.rest);
  solve_lower(part.a11, b1, pool);
  detail::negate(b2, pool);
  multiply_transposed(b1, part.a21, b2, Into::add, pool);
  detail::negate(b2, pool);
  solve_lower(part.a22, b2, pool);
}

// Every row x of b becomes the solution y of L^T y = x. Requires the same.
inline void solve_lower_transposed(MatrixRef<const float> l, MatrixRef<float> b, ThreadPool& pool) {
  BISUP_EXPECTS(l.rows() == l.cols() && b.cols() == l.rows());
  if (b.empty()) return;
  if (l.rows() <= detail::triangle_leaf) {
    const Matrix<float> before = detail::copy_of(b);
    return multiply(before.ref(), detail::leaf_inverse(l).ref(), b, Into::replace, pool);
  }
  const detail::Quarters part(l);
  const auto b1 = b.cols(0, part.half), b2 = b.cols(part.half, part.rest);
  solve_lower_transposed(part.a22, b2, pool);
  detail::negate(b1, pool);
  multiply(b2, part.a21, b1, Into::add, pool);
  detail::negate(b1, pool);
  solve_lower_transposed(part.a11, b1, pool);
}

// L becomes L^-1, in place; what lies above the diagonal is neither read nor written. Requires l
// [n, n] with a diagonal without zeros.
inline void invert_lower(MatrixRef<float> l, ThreadPool& pool) {
  BISUP_EXPECTS(l.rows() == l.cols());
  const int n = l.rows();
  if (n <= detail::triangle_leaf) {
    const Matrix<float> inverse = detail::leaf_inverse(l);
    for (int r = 0; r < n; ++r) std::copy_n(inverse.ref().row_data(r), r + 1, l.row_data(r));
    return;
  }
  const detail::Quarters part(l);  // below the diagonal: -L22^-1 L21 L11^-1
  solve_lower_transposed(part.a11, part.a21, pool);
  invert_lower(part.a11, pool);
  invert_lower(part.a22, pool);
  detail::multiply_lower(part.a22, part.a21, pool);
  detail::negate(part.a21, pool);
}

}  // namespace bisup
