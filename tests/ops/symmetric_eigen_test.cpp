// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/symmetric_eigen.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("eigenvalues by hand") {
  Matrix<double> a(2, 2);
  a(0, 0) = a(1, 1) = 2, a(0, 1) = a(1, 0) = 1;  // 3 along (1, 1), 1 along (1, -1)
  const auto e = symmetric_eigen(std::move(a));
  CHECK(e.values[0] == Approx(3).epsilon(1e-15));
  CHECK(e.values[1] == Approx(1).epsilon(1e-15));
  CHECK(e.vectors(0, 0) == Approx(e.vectors(0, 1)).epsilon(1e-15));
  CHECK(e.vectors(1, 0) == Approx(-e.vectors(1, 1)).epsilon(1e-15));
}

TEST_CASE("vectors are orthonormal and the matrix only stretches them") {
  for (const int n : {0, 1, 3, 17, 40}) {
    for (const bool deficient : {false, true}) {
      CAPTURE(n, deficient);
      const int tokens = deficient ? n / 2 : 2 * n;
      Matrix<double> x(tokens, n), a(n, n);
      Random random(static_cast<std::uint64_t>(n));
      for (int i = 0; i < tokens * n; ++i) x.data()[i] = random.normal();
      double norm = 0;
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          for (int t = 0; t < tokens; ++t) a(i, j) += x(t, i) * x(t, j);
          norm += a(i, j) * a(i, j);
        }
      }
      norm = std::sqrt(norm);
      const auto e = symmetric_eigen(a.clone());
      // An element meets at most 40 sweeps of 2 n rotations, each of three roundings.
      const double roundings = 40 * 2 * n * 3 * 0x1p-53;
      for (int i = 0; i < n; ++i) {
        if (i > 0)
          REQUIRE(e.values[static_cast<std::size_t>(i)] <=
                  e.values[static_cast<std::size_t>(i - 1)]);
        for (int j = 0; j < n; ++j) {
          double overlap = 0, stretched = 0;
          for (int k = 0; k < n; ++k) {
            overlap += e.vectors(i, k) * e.vectors(j, k);
            stretched += a(j, k) * e.vectors(i, k);
          }
          REQUIRE(std::fabs(overlap - (i == j)) <= roundings);
          REQUIRE(std::fabs(stretched - e.values[static_cast<std::size_t>(i)] * e.vectors(i, j)) <=
                  roundings * norm);
        }
      }
    }
  }
}

TEST_CASE("what is not square has no eigenvectors here") {
  CHECK_THROWS_AS((void)symmetric_eigen(Matrix<double>(2, 3)), ContractViolation);
}

}  // namespace
