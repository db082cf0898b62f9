// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/cholesky.hpp>
#include <cmath>
#include <limits>

#include <bisup_test.hpp>
#include <ops/unit_roundoff.hpp>

namespace {

using namespace bisup;

constexpr int sizes[] = {1, 5, 64, 65, 200};

// I + X^T X / n for few tokens: no eigenvalue below 1, and none above the largest row sum.
Matrix<float> moments(int n, double* condition) {
  Matrix<float> x(20, n), h(n, n);
  Random random(static_cast<std::uint64_t>(n));
  for (int i = 0; i < 20 * n; ++i) x.data()[i] = static_cast<float>(random.normal());
  *condition = 0;
  for (int r = 0; r < n; ++r) {
    double row = 0;
    for (int c = 0; c < n; ++c) {
      double sum = 0;
      for (int t = 0; t < 20; ++t) sum += double{x(t, r)} * x(t, c);
      h(r, c) = static_cast<float>(sum / n + (r == c));
      row += std::fabs(h(r, c));
    }
    *condition = std::max(*condition, row);
  }
  return h;
}

// Roundings of one element of L L^T relative to the largest diagonal element: n + 1 of the sums
// (Higham 10.3, |L| |L^T| by Cauchy and Schwarz), and 66 of |L| |L^-1| |L| where a leaf of 64 is
// solved with its rounded inverse: sqrt(64) times the condition of L, whose square is that of H.
double factor_bound(int n, double condition) {
  return 1.001 * unit * (n + 1 + 66 * 8 * std::sqrt(condition));
}

TEST_CASE("a factor times its transpose is the matrix") {
  ThreadPool pool(2);
  for (const int n : sizes) {
    CAPTURE(n);
    double condition = 0, diagonal = 0;
    const auto h = moments(n, &condition);
    for (int i = 0; i < n; ++i) diagonal = std::max(diagonal, double{h(i, i)});
    Matrix<float> l = h.clone();
    for (int r = 0; r < n; ++r) {
      for (int c = r + 1; c < n; ++c) l(r, c) = std::numeric_limits<float>::quiet_NaN();
    }
    REQUIRE(cholesky(l.ref(), pool));
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c <= r; ++c) {
        double sum = 0;
        for (int k = 0; k <= c; ++k) sum += double{l(r, k)} * l(c, k);
        REQUIRE(std::fabs(sum - h(r, c)) <= factor_bound(n, condition) * diagonal);
      }
    }
  }
}

TEST_CASE("the upper factor of the inverse: U H U^T is one") {
  ThreadPool pool(2);
  for (const int n : sizes) {
    CAPTURE(n);
    double condition = 0, diagonal = 0;
    const auto h = moments(n, &condition);
    for (int i = 0; i < n; ++i) diagonal = std::max(diagonal, double{h(i, i)});
    const auto made = inverse_factor(h.clone(), pool);
    REQUIRE(made);
    const Matrix<float>& u = *made;
    // With L L^T = H + E and U L = I + F: U H U^T - I = F + F^T + F F^T - U E U^T. |U|^2 <= 1 for
    // no eigenvalue of H is below 1. E has n columns of the bound above; F has three factors at
    // each level (ops/triangular), each with the norm of L and its inverse.
    const double e = n * factor_bound(n, condition) * diagonal;
    const double f = 3 * 3 * factor_bound(n, condition) * condition;
    const double bound = 1.01 * (2 * f + f * f + e);
    REQUIRE(bound < 0.5);
    Matrix<double> uh(n, n);
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < r; ++c) REQUIRE(u(r, c) == 0);
      for (int k = r; k < n; ++k) {
        for (int c = 0; c < n; ++c) uh(r, c) += double{u(r, k)} * h(k, c);
      }
    }
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < n; ++c) {
        double sum = 0;
        for (int k = c; k < n; ++k) sum += uh(r, k) * u(c, k);
        REQUIRE(std::fabs(sum - (r == c)) <= bound);
      }
    }
  }
}

TEST_CASE("a small matrix is factored by hand") {
  ThreadPool pool(1);
  Matrix<float> h(2, 2);
  h(0, 0) = 4, h(1, 0) = h(0, 1) = 6, h(1, 1) = 10;  // L = [2 0; 3 1], H^-1 = [2.5 -1.5; -1.5 1]
  const auto u = inverse_factor(h.clone(), pool);
  REQUIRE(u);
  // U^T U = H^-1: u00 = sqrt(2.5), u01 = -1.5 / u00, u11 = sqrt(1 - u01^2); four roundings each.
  CHECK(double{(*u)(0, 0)} == Approx(std::sqrt(2.5)).epsilon(4 * unit));
  CHECK(double{(*u)(0, 1)} == Approx(-1.5 / std::sqrt(2.5)).epsilon(4 * unit));
  CHECK(double{(*u)(1, 1)} == Approx(std::sqrt(0.1)).epsilon(4 * unit));
  REQUIRE(cholesky(h.ref(), pool));
  CHECK(h(0, 0) == 2);
  CHECK(h(1, 0) == 3);
  CHECK(h(1, 1) == 1);
}

TEST_CASE("a matrix that is not positive definite is refused with its pivot") {
  ThreadPool pool(1);
  for (const float bad : {-1.0f, 0.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    for (const int at : {3, 130}) {
      Matrix<float> h(150, 150);
      for (int i = 0; i < 150; ++i) h(i, i) = 2;
      h(at, at) = bad;
      const auto inverse = inverse_factor(h.clone(), pool);
      const auto factored = cholesky(h.ref(), pool);
      REQUIRE_FALSE(factored);
      REQUIRE_FALSE(inverse);
      CHECK(factored.error().code == Errc::not_definite);
      const std::string pivot = "pivot " + std::to_string(at) + " ";
      CHECK(factored.error().message.find(pivot) != std::string::npos);
      CHECK(inverse.error().message.find(pivot) != std::string::npos);
    }
  }
}

TEST_CASE("the number of threads does not change a bit of a factor") {
  ThreadPool one(1), two(2), three(3);
  double condition = 0;
  const auto h = moments(333, &condition);
  const auto a = inverse_factor(h.clone(), one), b = inverse_factor(h.clone(), two),
             c = inverse_factor(h.clone(), three);
  REQUIRE((a && b && c));
  for (int i = 0; i < 333 * 333; ++i) {
    REQUIRE(a->data()[i] == b->data()[i]);
    REQUIRE(a->data()[i] == c->data()[i]);
  }
}

TEST_CASE("what is not square is refused") {
  ThreadPool pool(1);
  Matrix<float> h(3, 4);
  CHECK_THROWS_AS(cholesky(h.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(inverse_factor(h.clone(), pool), ContractViolation);
}

}  // namespace
