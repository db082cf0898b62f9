// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In which basis is one model's residual stream the other's? A rotated model is the same function
// with another stream. Its embeddings say which: they are E Q, and Q = (E^T E)^-1 E^T (E Q).

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/cholesky.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/ops/rank_update.hpp>
#include <bisup/ops/triangular.hpp>

namespace bisup {

class StreamBasis {
 public:
  // From the embeddings of both, [vocab, hidden]. Errors: wrong_shape; unsupported, if no matrix
  // takes one's rows near the other's; not_definite, if the rows do not span the stream.
  static Result<StreamBasis> between(const DenseView& from, const DenseView& to, ThreadPool& pool) {
    if (from.rows != to.rows || from.cols != to.cols)
      return Error{Errc::wrong_shape, "the models' embeddings differ in shape"};
    const int n = from.cols, count = std::min(from.rows, 4 * n);
    // Rows at equal distances: rare tokens lie at the end and may all be alike.
    Matrix<float> a(count, n), b(count, n);
    double difference = 0, power = 0;
    for (int i = 0; i < count; ++i) {
      const auto row = static_cast<int>(std::int64_t{i} * from.rows / count);
      for (int c = 0; c < n; ++c) {
        a(i, c) = from(row, c), b(i, c) = to(row, c);
        difference += square(a(i, c) - b(i, c)), power += square(b(i, c));
      }
    }
    StreamBasis made;
    if (difference <= same * power) return made;
    Matrix<float> gram(n, n), q(n, n);  // (E^T E) Q = E^T (E Q), both sides transposed
    add_gram(a.ref(), gram.ref(), pool);
    transposed_multiply(b.ref(), a.ref(), q.ref(), Into::replace, pool);
    if (auto factored = cholesky(gram.ref(), pool); !factored) return factored.error();
    solve_lower(gram.ref(), q.ref(), pool), solve_lower_transposed(gram.ref(), q.ref(), pool);
    Matrix<float> turned(count, n);
    multiply_transposed(a.ref(), q.ref(), turned.ref(), Into::replace, pool);
    double left = 0;
    for (int i = 0; i < count; ++i) {
      for (int c = 0; c < n; ++c) left += square(turned(i, c) - b(i, c));
    }
    if (!(left <= same * power)) {
      return Error{Errc::unsupported,
                   "the residual streams of the two models are not the same in any basis"};
    }
    made.q_ = std::move(q);
    return made;
  }

  [[nodiscard]] bool is_identity() const noexcept { return q_.rows() == 0; }
  // x: [tokens, hidden], of the first model; y: the same as the second has it.
  void apply(MatrixRef<const float> x, MatrixRef<float> y, ThreadPool& pool) const {
    BISUP_EXPECTS(x.rows() == y.rows() && x.cols() == y.cols());
    if (!is_identity()) return multiply_transposed(x, q_.ref(), y, Into::replace, pool);
    for (int t = 0; t < x.rows(); ++t) std::copy_n(x.row_data(t), x.cols(), y.row_data(t));
  }

 private:
  // Of the rows' power: what rounding embeddings to f16, 2^-12 each, may leave, with room for those
  // rounded to 8 bits.
  static constexpr double same = 1e-3;
  static double square(float x) { return static_cast<double>(x) * static_cast<double>(x); }

  Matrix<float> q_;  // [hidden, hidden], transposed; empty: the identity
};

}  // namespace bisup
