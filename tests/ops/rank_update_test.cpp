// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/rank_update.hpp>
#include <cmath>
#include <utility>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

TEST_CASE("second moments are within the bound of their summation, and symmetric once mirrored") {
  ThreadPool pool(2);
  for (const int n : {1, 5, 33, 100}) {
    CAPTURE(n);
    const int tokens = 70;
    const auto x = test::normals(tokens, n, 1);
    Matrix<float> h(n, n);
    for (int i = 0; i < n * n; ++i) h.data()[i] = 2;
    add_gram(x.ref(), h.ref(), pool);
    mirror_lower(h.ref());
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < n; ++c) {
        double exact = 2, magnitude = 2;
        for (int t = 0; t < tokens; ++t) {
          const double term = static_cast<double>(x(t, r)) * x(t, c);
          exact += term, magnitude += std::fabs(term);
        }
        // One rounding a product and one a sum at most (Higham 3.1).
        REQUIRE(std::fabs(h(r, c) - exact) <= (tokens + 1) * 0x1p-24 * 1.001 * magnitude);
        REQUIRE(h(r, c) == h(c, r));
      }
    }
  }
}

TEST_CASE("mirroring copies everything below the diagonal and nothing else") {
  for (const int n : {1, 31, 32, 70}) {
    Matrix<float> h(n, n);
    for (int i = 0; i < n * n; ++i) h.data()[i] = static_cast<float>(i);
    mirror_lower(h.ref());
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c <= r; ++c) {
        REQUIRE(h(r, c) == static_cast<float>(r * n + c));
        REQUIRE(h(c, r) == h(r, c));
      }
    }
  }
}

TEST_CASE("batches of tokens and numbers of threads leave no trace") {
  ThreadPool one(1), three(3);
  const auto x = test::normals(1600, 45, 1);  // more tokens than a block of k
  Matrix<float> whole(45, 45), parts(45, 45);
  add_gram(x.ref(), whole.ref(), one);
  for (const auto& [first, count] : {std::pair{0, 7}, std::pair{7, 900}, std::pair{907, 693}}) {
    add_gram(x.ref().rows(first, count), parts.ref(), three);
  }
  for (int r = 0; r < 45; ++r) {
    for (int c = 0; c <= r; ++c) REQUIRE(whole(r, c) == parts(r, c));
  }
}

TEST_CASE("moments of another size are refused") {
  ThreadPool pool(1);
  Matrix<float> x(4, 3), h(3, 4);
  CHECK_THROWS_AS(add_gram(x.ref(), h.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(mirror_lower(h.ref()), ContractViolation);
}

}  // namespace
