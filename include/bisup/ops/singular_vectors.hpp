// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which few directions carry most of a large matrix? Randomised block power iteration (Halko,
// Martinsson, Tropp, 2011): products with a few rows more than are wanted, made orthonormal each
// time. Bit-identical for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/random.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/dot.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/ops/symmetric_eigen.hpp>

namespace bisup {

// Makes the rows of m orthonormal, each within the span of itself and those above: Gram and
// Schmidt, twice, which is enough. A row that adds nothing beyond rounding becomes zero.
inline void orthonormalise_rows(MatrixRef<float> m) {
  constexpr double nothing = 1e-5;  // of its length; 2^-24 is one rounding
  for (int i = 0; i < m.rows(); ++i) {
    const std::span<float> row = m.row(i);
    const double before = std::sqrt(dot(row, row));
    for (int pass = 0; pass < 2; ++pass) {
      for (int j = 0; j < i; ++j) {
        const std::span<const float> above = m.row(j);
        const auto share = static_cast<float>(dot(row, above));
        for (std::size_t k = 0; k < row.size(); ++k) row[k] -= share * above[k];
      }
    }
    const double after = std::sqrt(dot(row, row));
    const auto factor = static_cast<float>(after > nothing * before ? 1 / after : 0);
    for (float& value : row) value *= factor;
  }
}

struct SingularVectors {
  std::vector<double> values;  // falling
  Matrix<float> left;          // [count, rows of m], orthonormal rows; zero where the value is
};

struct PowerIteration {
  int rounds = 12;
  int more = 8;  // rows beyond those that are wanted: without them the last ones come out badly
  std::uint64_t seed = 1;
  friend constexpr bool operator==(const PowerIteration&, const PowerIteration&) = default;
};

// The first `count` singular values of m and their left vectors; fewer if m is smaller. Requires
// finite numbers.
[[nodiscard]] inline SingularVectors singular_vectors(MatrixRef<const float> m, int count,
                                                      const PowerIteration& how, ThreadPool& pool) {
  BISUP_EXPECTS(count >= 0 && how.rounds >= 1 && how.more >= 0);
  const int smaller = std::min(m.rows(), m.cols()), kept = std::min(count, smaller);
  const int width = std::min(count + how.more, smaller);
  Matrix<float> right(width, m.cols()), left(width, m.rows());
  Random random(how.seed);
  for (int i = 0; i < width * m.cols(); ++i) right.data()[i] = static_cast<float>(random.normal());
  for (int round = 0; round < how.rounds; ++round) {
    multiply_transposed(right.ref(), m, left.ref(), Into::replace, pool);
    orthonormalise_rows(left.ref());
    multiply(left.ref(), m, right.ref(), Into::replace, pool);
    if (round + 1 < how.rounds) orthonormalise_rows(right.ref());
  }
  // What is left of m in the basis is a few rows; their Gram matrix has the squares of its singular
  // values, and turns the basis into vectors.
  Matrix<double> gram(width, width);
  for (int i = 0; i < width; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = 0;
      for (int k = 0; k < m.cols(); ++k) sum += static_cast<double>(right(i, k)) * right(j, k);
      gram(i, j) = gram(j, i) = sum;
    }
  }
  const SymmetricEigen core = symmetric_eigen(std::move(gram));
  SingularVectors result{{}, Matrix<float>(kept, m.rows())};
  Matrix<float> turn(kept, width);
  for (int i = 0; i < kept; ++i) {
    const double square = core.values[static_cast<std::size_t>(i)];
    const bool present = square > 0;  // or a rounding below it
    result.values.push_back(present ? std::sqrt(square) : 0);
    for (int j = 0; j < width && present; ++j) {
      turn(i, j) = static_cast<float>(core.vectors(i, j));
    }
  }
  multiply(turn.ref(), left.ref(), result.left.ref(), Into::replace, pool);
  return result;
}

}  // namespace bisup
