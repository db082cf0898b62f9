// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is added after rounding? A branch of low rank beside the rounded weights,
// y = x^ W^^T + (x A^T) B^T. Two starts, from the error of the weights or by regression on outputs;
// llama/branch.hpp stores it.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/cholesky.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/ops/singular_vectors.hpp>
#include <bisup/quant/rounding.hpp>

namespace bisup {

struct LowRank {
  Matrix<float> a;  // [rank, in]
  Matrix<float> b;  // [out, rank]

  [[nodiscard]] int rank() const noexcept { return a.rows(); }
  [[nodiscard]] LowRank clone() const { return {a.clone(), b.clone()}; }
};

struct LowRankOptions {
  int rank = 32;
  // Below 1: the lowest rank, up to `rank`, that explains this share of the squared error.
  double energy = 1;
  double damping = 0.01;  // of regression: share of the inputs' mean power that is added
  PowerIteration iteration = {};
};

namespace detail {

[[nodiscard]] inline int rank_for(std::span<const double> values, double total, double energy) {
  if (energy >= 1) return static_cast<int>(values.size());  // whatever sums of squares round to
  double explained = 0;
  int rank = 0;
  for (const double s : values) {
    if (explained >= energy * total) break;
    explained += s * s, ++rank;
  }
  return rank;
}

[[nodiscard]] inline double sum_of_squares(MatrixRef<const float> m) {
  double sum = 0;
  for (int r = 0; r < m.rows(); ++r) {
    for (const float v : m.row(r)) sum += static_cast<double>(v) * v;
  }
  return sum;
}

// B = U S^(1/2), A = S^(-1/2) P: both factors carry half of each singular value. P is U^T times
// what is approximated, [rank, in].
[[nodiscard]] inline LowRank balanced(const SingularVectors& vectors, Matrix<float> p) {
  const int rank = p.rows();
  LowRank branch{std::move(p), Matrix<float>(vectors.left.cols(), rank)};
  for (int i = 0; i < rank; ++i) {
    const double s = vectors.values[static_cast<std::size_t>(i)], root = std::sqrt(s);
    for (float& v : branch.a.row(i)) v = static_cast<float>(s > 0 ? v / root : 0);
    for (int o = 0; o < branch.b.rows(); ++o) {
      branch.b(o, i) = static_cast<float>(vectors.left(i, o) * root);
    }
  }
  return branch;
}

}  // namespace detail

// The branch that takes most of sum over j of h_j |E_j|^2 off E = W - W^, [out, in], with columns
// E_j and h_j = E[x_j^2] (input_power): the singular vectors U of E diag(sqrt h), and U U^T E. No
// h_j is divided by. Errors: not_finite.
[[nodiscard]] inline Result<LowRank> weighted_svd(MatrixRef<const float> error,
                                                  std::span<const float> input_power,
                                                  const LowRankOptions& options, ThreadPool& pool) {
  BISUP_EXPECTS(static_cast<int>(input_power.size()) == error.cols() && options.rank >= 0);
  if (auto finite = detail::expect_finite(error, "the error"); !finite) return finite.error();
  Matrix<float> weighted(error.rows(), error.cols());
  for (int c = 0; c < error.cols(); ++c) {
    const float h = input_power[static_cast<std::size_t>(c)], root = std::sqrt(h);
    if (!std::isfinite(root)) {
      return Error{Errc::not_finite,
                   "the power of input " + std::to_string(c) + " is not a finite square"};
    }
    for (int r = 0; r < error.rows(); ++r) weighted(r, c) = error(r, c) * root;
  }
  const SingularVectors vectors =
      singular_vectors(weighted.ref(), options.rank, options.iteration, pool);
  const int rank =
      detail::rank_for(vectors.values, detail::sum_of_squares(weighted.ref()), options.energy);
  Matrix<float> p(rank, error.cols());
  multiply(vectors.left.ref().rows(0, rank), error, p.ref(), Into::replace, pool);
  return detail::balanced(vectors, std::move(p));
}

// Reduced-rank regression: the branch M that leaves least of E|r - x M^T|^2 for the residual r = y
// - x^ W^^T, with damping added to the inputs' power. moments: E[x x^T], [in, in]; cross: E[r^T x],
// [out, in]. Needs many tokens (at least 16 for each input), or it fits their noise. Errors:
// not_finite, not_definite.
[[nodiscard]] inline Result<LowRank> reduced_rank_regression(MatrixRef<const float> moments,
                                                             MatrixRef<const float> cross,
                                                             const LowRankOptions& options,
                                                             ThreadPool& pool) {
  const int n = moments.rows();
  BISUP_EXPECTS(moments.cols() == n && cross.cols() == n && options.rank >= 0);
  if (auto finite = detail::expect_finite(moments, "the moments"); !finite) return finite.error();
  if (auto finite = detail::expect_finite(cross, "the cross moments"); !finite) {
    return finite.error();
  }
  Matrix<float> l = detail::copy_of(moments);
  double trace = 0;
  for (int i = 0; i < n; ++i) trace += moments(i, i);
  for (int i = 0; i < n; ++i) l(i, i) += static_cast<float>(options.damping * trace / n);
  if (auto factored = cholesky(l.ref(), pool); !factored) return factored.error();
  // With G = L L^T the loss is |M L - C L^-T|^2 and a constant: truncate the second, then undo L.
  Matrix<float> whitened = detail::copy_of(cross);
  solve_lower(l.ref(), whitened.ref(), pool);
  const SingularVectors vectors =
      singular_vectors(whitened.ref(), options.rank, options.iteration, pool);
  const int rank =
      detail::rank_for(vectors.values, detail::sum_of_squares(whitened.ref()), options.energy);
  Matrix<float> p(rank, n);
  multiply(vectors.left.ref().rows(0, rank), whitened.ref(), p.ref(), Into::replace, pool);
  solve_lower_transposed(l.ref(), p.ref(), pool);
  return detail::balanced(vectors, std::move(p));
}

}  // namespace bisup
