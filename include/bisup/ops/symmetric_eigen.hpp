// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What are the eigenvalues of a small symmetric matrix? Cyclic Jacobi in double: a few lines for
// the cores of decompositions, tens of rows wide, that spare us a library's seconds of compile
// time.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

struct SymmetricEigen {
  std::vector<double> values;  // falling
  Matrix<double> vectors;      // [n, n]; row i belongs to value i
};

// Requires a [n, n], symmetric; both triangles are read.
[[nodiscard]] inline SymmetricEigen symmetric_eigen(Matrix<double> a) {
  BISUP_EXPECTS(a.rows() == a.cols());
  constexpr int sweeps = 40;  // convergence is quadratic: six to ten are enough
  const int n = a.rows();
  Matrix<double> v(n, n);
  for (int i = 0; i < n; ++i) v(i, i) = 1;
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    double off = 0, all = 0;
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        all += a(i, j) * a(i, j);
        if (i != j) off += a(i, j) * a(i, j);
      }
    }
    constexpr double unit = std::numeric_limits<double>::epsilon();
    if (!(off > unit * unit * all)) break;
    for (int p = 0; p < n; ++p) {
      for (int q = p + 1; q < n; ++q) {
        if (a(p, q) == 0) continue;
        // The smaller angle that makes a_pq zero (Golub and Van Loan 8.5.2).
        const double tau = (a(q, q) - a(p, p)) / (2 * a(p, q));
        const double t = std::copysign(1 / (std::fabs(tau) + std::hypot(1.0, tau)), tau);
        const double c = 1 / std::hypot(1.0, t), s = t * c;
        for (int k = 0; k < n; ++k) {
          const double x = a(p, k), y = a(q, k);
          a(p, k) = c * x - s * y, a(q, k) = s * x + c * y;
        }
        for (int k = 0; k < n; ++k) {
          const double x = a(k, p), y = a(k, q);
          a(k, p) = c * x - s * y, a(k, q) = s * x + c * y;
        }
        for (int k = 0; k < n; ++k) {
          const double x = v(p, k), y = v(q, k);
          v(p, k) = c * x - s * y, v(q, k) = s * x + c * y;
        }
      }
    }
  }
  std::vector<int> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return a(i, i) > a(j, j); });
  SymmetricEigen result{{}, Matrix<double>(n, n)};
  for (int i = 0; i < n; ++i) {
    const int from = order[static_cast<std::size_t>(i)];
    result.values.push_back(a(from, from));
    std::ranges::copy(v.row(from), result.vectors.row(i).begin());
  }
  return result;
}

}  // namespace bisup
