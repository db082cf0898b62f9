// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

// A view of random numbers into the middle of `store`.
MatrixRef<float> view_of(Matrix<float>& store, int rows, int cols) {
  store.resize(rows + 2, cols + 5);
  Random random(static_cast<std::uint64_t>(rows * 1009 + cols));
  for (int i = 0; i < store.rows() * store.cols(); ++i) {
    store.data()[i] = static_cast<float>(random.normal());
  }
  return store.ref().rows(1, rows).cols(2, cols);
}

TEST_CASE("products of views with strides are within the bound of their summation") {
  ThreadPool pool(2);
  struct Shape {
    int m, n, k;
  };
  for (const auto [m, n, k] :
       {Shape{1, 1, 1}, {3, 70, 9}, {64, 33, 17}, {40, 16, 800}, {7, 5, 0}, {200, 3, 11000}}) {
    for (const char transposed : {'-', 'b', 'a'}) {  // which factor is
      for (const Into into : {Into::replace, Into::add}) {
        CAPTURE(m, n, k, transposed, into == Into::add);
        Matrix<float> a_store, b_store, c_store, before_store;
        const auto a = transposed == 'a' ? view_of(a_store, k, m) : view_of(a_store, m, k);
        const auto b = transposed == 'b' ? view_of(b_store, n, k) : view_of(b_store, k, n);
        const auto c = view_of(c_store, m, n), before = view_of(before_store, m, n);
        if (transposed == 'a') {
          transposed_multiply(a, b, c, into, pool);
        } else if (transposed == 'b') {
          multiply_transposed(a, b, c, into, pool);
        } else {
          multiply(a, b, c, into, pool);
        }
        for (int i = 0; i < m; ++i) {
          for (int j = 0; j < n; ++j) {
            double exact = into == Into::add ? before(i, j) : 0, magnitude = std::fabs(exact);
            for (int p = 0; p < k; ++p) {
              const double left = transposed == 'a' ? a(p, i) : a(i, p);
              const double term = left * (transposed == 'b' ? b(j, p) : b(p, j));
              exact += term, magnitude += std::fabs(term);
            }
            // k products and sums, each product and sum rounded at most once (Higham 3.1).
            REQUIRE(std::fabs(c(i, j) - exact) <= (k + 1) * 0x1p-24 * 1.001 * magnitude);
          }
        }
        for (int i = 0; i < c_store.rows(); ++i) {  // the same numbers around the view
          for (const int j : {0, 1, n + 2, n + 3, n + 4}) {
            REQUIRE(c_store(i, j) == before_store(i, j));
          }
        }
      }
    }
  }
}

TEST_CASE("a product with the identity is the matrix itself") {
  ThreadPool pool(1);
  Matrix<float> store, identity(37, 37), c(11, 37);
  const auto a = view_of(store, 11, 37);
  for (int i = 0; i < 37; ++i) {
    for (int j = 0; j < 37; ++j) identity(i, j) = i == j ? 1.0f : 0.0f;
  }
  multiply(a, identity.ref(), c.ref(), Into::replace, pool);
  for (int i = 0; i < 11; ++i) {
    for (int j = 0; j < 37; ++j) REQUIRE(c(i, j) == a(i, j));
  }
}

TEST_CASE("matrices that do not fit are refused") {
  ThreadPool pool(1);
  Matrix<float> a(2, 3), b(4, 3), c(2, 4);
  CHECK_NOTHROW(multiply_transposed(a.ref(), b.ref(), c.ref(), Into::replace, pool));
  CHECK_THROWS_AS(multiply(a.ref(), b.ref(), c.ref(), Into::replace, pool), ContractViolation);
  CHECK_THROWS_AS(multiply_transposed(b.ref(), a.ref(), c.ref(), Into::add, pool),
                  ContractViolation);
  CHECK_THROWS_AS(transposed_multiply(a.ref(), b.ref(), c.ref(), Into::add, pool),
                  ContractViolation);
}

}  // namespace
