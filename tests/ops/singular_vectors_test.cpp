// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/SVD>
#include <bisup/core/random.hpp>
#include <bisup/ops/singular_vectors.hpp>
#include <cmath>
#include <cstring>

#include <bisup_test.hpp>
#include <normals.hpp>
#include <ops/unit_roundoff.hpp>

namespace {

using namespace bisup;

// Sum over i of 2^(-i) u_i v_i^T.
Matrix<float> decaying(int rows, int cols, int terms) {
  Matrix<float> u = test::normals(terms, rows, 1), v = test::normals(terms, cols, 2), m(rows, cols);
  orthonormalise_rows(u.ref()), orthonormalise_rows(v.ref());
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      double sum = 0;
      for (int i = 0; i < terms; ++i) sum += std::ldexp(double{u(i, r)} * v(i, c), -i);
      m(r, c) = static_cast<float>(sum);
    }
  }
  return m;
}

// How far rows of n numbers are from orthonormal: each of `width` subtractions and the sums of
// sixteenths leave their roundings, and the turn at the end as many as it has terms.
double overlap_bound(int n, int width) {
  return 1.01 * unit * (n / 16 + 8 + 4 * width);
}

void require_orthonormal(const Matrix<float>& m, double bound) {
  for (int i = 0; i < m.rows(); ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = 0;
      for (int k = 0; k < m.cols(); ++k) sum += double{m(i, k)} * m(j, k);
      REQUIRE(std::fabs(sum - (i == j)) <= bound);
    }
  }
}

TEST_CASE("rows become orthonormal, and what adds nothing becomes zero") {
  for (const int n : {1, 15, 16, 100, 333}) {
    const int rows = std::min(n, 30);
    Matrix<float> m = test::normals(rows, n, 5);
    for (int c = 0; c < n && rows > 2; ++c) m(2, c) = m(0, c) + 1e-3f * m(2, c);  // nearly parallel
    orthonormalise_rows(m.ref());
    require_orthonormal(m, overlap_bound(n, rows));
  }
  Matrix<float> m = test::normals(3, 50, 6);
  for (int c = 0; c < 50; ++c) m(1, c) = -2 * m(0, c);
  orthonormalise_rows(m.ref());
  for (int c = 0; c < 50; ++c) CHECK(m(1, c) == 0);
  CHECK(dot(m.row(2), m.row(2)) == Approx(1).epsilon(60 * unit));
}

TEST_CASE("singular values and the spaces of their vectors are those of a full decomposition") {
  ThreadPool pool(2);
  for (const auto& [rows, cols] : {std::pair{40, 70}, {70, 40}, {30, 30}}) {
    const auto m = decaying(rows, cols, 16);
    Eigen::MatrixXd whole(rows, cols);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) whole(r, c) = double{m(r, c)};
    }
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(whole, Eigen::ComputeThinU);
    const auto found = singular_vectors(m.ref(), 6, {}, pool);
    require_orthonormal(found.left, overlap_bound(rows, 14));
    // Products sum rows or columns; |m| is below 1.2, and the values halve, so that vectors of
    // value i are separated by 2^-i / 2.
    const double roundings = 1.2 * 1.01 * unit * (rows + cols + 2 + rows / 16 + 8 + 4 * 14);
    for (int i = 0; i < 6; ++i) {
      CAPTURE(rows, cols, i);
      REQUIRE(std::fabs(found.values[static_cast<std::size_t>(i)] - svd.singularValues()(i)) <=
              roundings);
      double cosine = 0;
      for (int r = 0; r < rows; ++r) cosine += found.left(i, r) * svd.matrixU()(r, i);
      REQUIRE(std::fabs(std::fabs(cosine) - 1) <= roundings * std::ldexp(2, i));
    }
  }
}

TEST_CASE("values that are not there are zero, and so are their vectors") {
  ThreadPool pool(1);
  const auto found = singular_vectors(decaying(20, 30, 3).ref(), 5, {}, pool);
  REQUIRE(found.values.size() == 5);
  CHECK(found.values[2] > 0.2);
  CHECK(found.values[3] == 0);
  for (int r = 0; r < 20; ++r) CHECK(found.left(4, r) == 0);
  CHECK(singular_vectors(decaying(4, 30, 3).ref(), 9, {}, pool).values.size() == 4);
  CHECK(singular_vectors(Matrix<float>(4, 5).ref(), 2, {}, pool).values[0] == 0);
  CHECK(singular_vectors(test::normals(4, 5, 1).ref(), 0, {}, pool).left.rows() == 0);
}

TEST_CASE("the number of threads does not change a bit of a vector") {
  ThreadPool one(1), three(3);
  const auto m = test::normals(90, 110, 4);
  const auto a = singular_vectors(m.ref(), 20, {}, one),
             b = singular_vectors(m.ref(), 20, {}, three);
  CHECK(a.values == b.values);
  CHECK(std::memcmp(a.left.data(), b.left.data(), 20 * 90 * sizeof(float)) == 0);
}

}  // namespace
