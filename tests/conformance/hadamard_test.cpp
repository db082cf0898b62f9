// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/hadamard.hpp>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

double length(const std::vector<float>& x) {
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * v;
  return std::sqrt(squares);
}

TEST_CASE("every target computes the scalar transform to the bit") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (int n = 1; n <= 4096; n *= 2) {
      CAPTURE(name(target), n);
      auto x = test::normal_values(n + 1, 1), expected = x;
      scalar::hadamard(expected.data(), n, 0.3f);
      kernels.hadamard(x.data(), n, 0.3f);
      REQUIRE(x == expected);
    }
  });
}

TEST_CASE("every target joins runs of values as scalar does, to the bit") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (const int run : {1, 2, 3, 7, 8, 12, 16, 17, 24, 48, 64}) {
      for (int n = 1; n <= 128; n *= 2) {
        CAPTURE(name(target), n, run);
        auto x = test::normal_values(n * run + 1, 1), expected = x;
        scalar::hadamard_runs(expected.data(), n, run, 0.3f);
        kernels.hadamard_runs(x.data(), n, run, 0.3f);
        REQUIRE(x == expected);
      }
    }
  });
}

TEST_CASE("runs of values are transformed as columns") {
  const auto x = test::normal_values(16 * 5, 1);
  auto y = x;
  scalar::hadamard_runs(y.data(), 16, 5, 0.25f);
  for (std::size_t col = 0; col < 5; ++col) {
    std::vector<float> column;
    for (std::size_t i = 0; i < 16; ++i) column.push_back(x[i * 5 + col]);
    scalar::hadamard(column.data(), 16, 0.25f);
    for (std::size_t i = 0; i < 16; ++i) REQUIRE(y[i * 5 + col] == column[i]);
  }
}

TEST_CASE("the scalar transform is the matrix of signs (-1)^popcount(i & j)") {
  for (unsigned n = 1; n <= 128; n *= 2) {
    const auto x = test::normal_values(static_cast<int>(n), 1);
    auto y = x;
    scalar::hadamard(y.data(), static_cast<int>(n), 1.0f);
    double magnitude = 0;
    for (const float v : x) magnitude += std::fabs(v);
    for (unsigned i = 0; i < n; ++i) {
      double exact = 0;
      for (unsigned j = 0; j < n; ++j) exact += std::popcount(i & j) % 2 ? -x[j] : x[j];
      // log2 n additions deep.
      REQUIRE(std::fabs(y[i] - exact) <= std::countr_zero(n) * 1.001 * u * magnitude);
    }
  }
}

TEST_CASE("the normalised transform is its own inverse and keeps lengths") {
  for (std::size_t n = 1; n <= 4096; n *= 2) {
    const auto x = test::normal_values(static_cast<int>(n), 1);
    auto y = x;
    hadamard(y);
    // A step is orthogonal up to a factor, so each errs by u in length; 1 / sqrt(n) has two
    // roundings and the product with it one.
    const double once = (std::countr_zero(n) + 3) * 1.001 * u * length(x);
    CHECK(std::fabs(length(y) - length(x)) <= once);
    hadamard(y);
    std::vector<float> difference;
    for (std::size_t i = 0; i < n; ++i) difference.push_back(y[i] - x[i]);
    CHECK(length(difference) <= 2 * once);
  }
}

TEST_CASE("every head of every row is transformed by itself") {
  ThreadPool pool(2);
  Matrix<float> x(50, 3 * 64 + 5);
  const auto head = test::normal_values(64, 1);
  for (int r = 0; r < 50; ++r) {
    for (int c = 0; c < x.cols(); ++c) x(r, c) = head[static_cast<std::size_t>(c % 64)];
  }
  hadamard(x.ref().cols(0, 192), 64, pool);
  auto expected = head;
  hadamard(expected);
  for (int r = 0; r < 50; ++r) {
    for (int c = 0; c < x.cols(); ++c) {
      const auto i = static_cast<std::size_t>(c % 64);
      REQUIRE(x(r, c) == (c < 192 ? expected[i] : head[i]));
    }
  }
  CHECK_THROWS_AS(hadamard(x.ref().cols(0, 192), 48, pool), ContractViolation);
  CHECK_THROWS_AS(hadamard(x.ref().cols(0, 96), 64, pool), ContractViolation);
}

}  // namespace
