// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a rotation? A small value that turns a row vector in place, x = x Q, and back, keeping
// its length. Models: Identity, Hadamard, RandomSigns, RandomizedHadamard; merge.hpp takes any.

#include <concepts>
#include <cstddef>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup {

template <class R>
concept Rotation = std::equality_comparable<R> &&
    requires(const R& r, std::span<float> x, std::span<double> proof) {
  { r.size() } -> std::same_as<int>;
  r.apply(x), r.apply_inverse(x);
  r.apply(proof), r.apply_inverse(proof);
};

struct Identity {
  int values = 1;
  friend constexpr bool operator==(const Identity&, const Identity&) = default;
  [[nodiscard]] constexpr int size() const noexcept { return values; }
  template <class T>
  void apply(std::span<T> x) const {
    BISUP_EXPECTS(x.size() == static_cast<std::size_t>(values));
  }
  template <class T>
  void apply_inverse(std::span<T> x) const {
    apply(x);
  }
};

// M = M Q: every row, as for the embedding, the head, and what reads the residual stream.
template <class T, Rotation R>
void rotate_rows(MatrixRef<T> m, const R& rotation, ThreadPool& pool) {
  BISUP_EXPECTS(m.cols() == rotation.size());
  if constexpr (requires { rotation.apply(m, pool); }) {
    rotation.apply(m, pool);
  } else {
    detail::over_rows(m.rows(), m.cols(), pool, [&](int row) { rotation.apply(m.row(row)); });
  }
}

// M = Q^T M: every column, as for what writes the residual stream.
template <class T, Rotation R>
void rotate_columns(MatrixRef<T> m, const R& rotation, ThreadPool& pool) {
  BISUP_EXPECTS(m.rows() == rotation.size());
  Matrix<T> columns = transposed(m);
  rotate_rows(columns.ref(), rotation, pool);
  for (int r = 0; r < m.rows(); ++r) {
    for (int c = 0; c < m.cols(); ++c) m(r, c) = columns(c, r);
  }
}

}  // namespace bisup
