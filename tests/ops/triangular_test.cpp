// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/triangular.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>
#include <normals.hpp>
#include <ops/unit_roundoff.hpp>

namespace {

using namespace bisup;

constexpr int triangle_sizes[] = {1, 5, 64, 65, 200};

// Ones on the diagonal and at most 1 / (2n) below it: rows and columns of L sum to at most 1.5 and
// those of L^-1 to at most 2. NaN above the diagonal, where nothing may look.
Matrix<float> triangle(int n) {
  Matrix<float> l(n, n);
  Random random(static_cast<std::uint64_t>(n));
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c < n; ++c) {
      const auto below = static_cast<float>((random.uniform() - 0.5) / n);
      l(r, c) = c < r ? below : c == r ? 1.0f : std::numeric_limits<float>::quiet_NaN();
    }
  }
  return l;
}

double largest(const Matrix<float>& m, int row) {
  double value = 0;
  for (const float v : m.row(row)) value = std::max(value, std::fabs(static_cast<double>(v)));
  return value;
}

TEST_CASE("solutions of triangular systems leave the residual of their summation") {
  ThreadPool pool(2);
  for (const int n : triangle_sizes) {
    for (const bool transposed : {false, true}) {
      CAPTURE(n, transposed);
      const auto l = triangle(n), x = test::normals(7, n, 7);
      Matrix<float> y = x.clone();
      if (transposed) {
        solve_lower_transposed(l.ref(), y.ref(), pool);
      } else {
        solve_lower(l.ref(), y.ref(), pool);
      }
      for (int r = 0; r < 7; ++r) {
        // n + 1 roundings of x - L y; then a leaf of 64 is multiplied by its rounded inverse: 66
        // of |L| |L^-1| |L| |y|, which norms 1.5 * 2 * 1.5 bound.
        const double size = largest(y, r);
        const double bound =
            unit * 1.001 * ((n + 1) * (largest(x, r) + 1.5 * size) + 66 * 4.5 * size);
        for (int i = 0; i < n; ++i) {
          double sum = 0;
          for (int k = 0; k < n; ++k) {
            if (transposed ? k >= i : k <= i)
              sum += (transposed ? l(k, i) : l(i, k)) * double{y(r, k)};
          }
          REQUIRE(std::fabs(sum - x(r, i)) <= bound);
        }
      }
    }
  }
}

TEST_CASE("a triangle times its inverse is one, and nothing above is touched") {
  ThreadPool pool(2);
  for (const int n : triangle_sizes) {
    CAPTURE(n);
    const auto l = triangle(n);
    Matrix<float> inverse = l.clone();
    invert_lower(inverse.ref(), pool);
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < n; ++c) {
        if (c > r) {
          REQUIRE(std::isnan(inverse(r, c)));
          continue;
        }
        double sum = 0;
        for (int k = c; k <= r; ++k) sum += double{l(r, k)} * inverse(k, c);
        // At each of at most three levels -L22^-1 (L21 L11^-1) has three factors of norms 2, 0.5,
        // 2, each off by no more than the solutions above, and L multiplies their error by 1.5.
        REQUIRE(std::fabs(sum - (r == c)) <= 3 * 3 * 2 * 1.5 * unit * (n + 1 + 66 * 4.5));
      }
    }
  }
}

TEST_CASE("a small triangle is solved by hand") {
  ThreadPool pool(1);
  Matrix<float> l(2, 2), b(1, 2);
  l(0, 0) = 2, l(1, 0) = 3, l(1, 1) = 4;
  b(0, 0) = 2, b(0, 1) = 11;  // y0 = 1, y1 = (11 - 3) / 4
  Matrix<float> t = b.clone();
  solve_lower(l.ref(), b.ref(), pool);
  CHECK(b(0, 0) == 1);
  CHECK(b(0, 1) == 2);
  solve_lower_transposed(l.ref(), t.ref(), pool);  // y1 = 11 / 4, y0 = (2 - 3 y1) / 2
  CHECK(t(0, 1) == 2.75f);
  CHECK(t(0, 0) == -3.125f);
  invert_lower(l.ref(), pool);
  CHECK(l(1, 0) == -0.375f);
}

TEST_CASE("the number of threads does not change a bit of a solution") {
  ThreadPool one(1), three(3);
  const auto l = triangle(333);
  Matrix<float> a = test::normals(70, 333, 7), b = a.clone(), i = l.clone(), j = l.clone();
  solve_lower(l.ref(), a.ref(), one), solve_lower(l.ref(), b.ref(), three);
  invert_lower(i.ref(), one), invert_lower(j.ref(), three);
  for (int r = 0; r < 70; ++r) {
    for (int c = 0; c < 333; ++c) REQUIRE(a(r, c) == b(r, c));
  }
  for (int r = 0; r < 333; ++r) {
    for (int c = 0; c <= r; ++c) REQUIRE(i(r, c) == j(r, c));
  }
}

TEST_CASE("systems that do not fit are refused") {
  ThreadPool pool(1);
  Matrix<float> l(3, 3), b(2, 4), wide(3, 4);
  CHECK_THROWS_AS(solve_lower(l.ref(), b.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(solve_lower_transposed(wide.ref(), b.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(invert_lower(wide.ref(), pool), ContractViolation);
}

}  // namespace
