// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/exponential_terms.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/softmax.hpp>
#include <bisup/ops/swiglu.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

TEST_CASE("swiglu of every target is within its bound of the exact result") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    std::vector<float> gate, up;
    for (int i = 0; i <= 4003; ++i) {  // 4004 is no multiple of 8
      gate.push_back(static_cast<float>(i - 2002) * 0.0613f);
      up.push_back(static_cast<float>(i % 7 - 3) * 1.37f);
    }
    std::vector<float> y(gate.size() + 1, 12345.0f);
    kernels.swiglu(gate.data(), up.data(), static_cast<int>(gate.size()), y.data());
    REQUIRE(y.back() == 12345.0f);
    for (std::size_t i = 0; i < gate.size(); ++i) {
      CAPTURE(name(target), gate[i]);
      const double g = gate[i], exact = g / (1 + std::exp(-g)) * up[i];
      // exp (3 u), 1 + exp, the division and the product. Where exp(-g) overflows, g < -88.72, the
      // result is zero instead of |g| exp(g) < 2^-121.
      const double bound =
          (exponential_error + 3 * u) * 1.001 * std::fabs(exact) + 0x1p-121 * std::fabs(up[i]);
      REQUIRE(std::fabs(y[i] - exact) <= bound);
    }
  });
}

TEST_CASE("softmax of every target is within its bound of the exact result") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (const int n : {1, 2, 7, 8, 9, 16, 17, 40, 172, 1000}) {
      CAPTURE(name(target), n);
      std::vector<float> scores;
      for (int i = 0; i < n; ++i) scores.push_back(static_cast<float>(i * 37 % 101) * 1.1f - 90.0f);
      auto x = scores;
      x.push_back(12345.0f);
      kernels.softmax(x.data(), n);
      REQUIRE(x.back() == 12345.0f);
      double largest = scores[0], sum = 0, spread = 0, total = 0;
      for (const float s : scores) largest = std::max(largest, static_cast<double>(s));
      for (const float s : scores) sum += std::exp(s - largest);
      for (const float s : scores) spread += std::exp(s - largest) * (largest - s) / sum;
      for (int i = 0; i < n; ++i) {
        const double below = largest - scores[static_cast<std::size_t>(i)],
                     exact = std::exp(-below) / sum;
        // Rounding the difference d scales exp by up to d u, on top of exp's own error; the sum has
        // the mean of these and n roundings; then a reciprocal and a product. Subnormal: 2^-149
        // each.
        const double relative = (below + spread + n + 2) * u + 2 * exponential_error;
        REQUIRE(std::fabs(x[static_cast<std::size_t>(i)] - exact) <=
                relative * 1.001 * exact + 0x1p-147);
        total += x[static_cast<std::size_t>(i)];
      }
      // Each quotient errs by the reciprocal and the product, the sum by n roundings.
      REQUIRE(std::fabs(total - 1) <= (n + 2) * 1.001 * u);
    }
  });
}

TEST_CASE("NaN stays, minus infinity has no weight") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    CAPTURE(name(target));
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const float gate[] = {nan, 1}, up[] = {1, nan};
    float y[2];
    kernels.swiglu(gate, up, 2, y);
    CHECK(std::isnan(y[0]));
    CHECK(std::isnan(y[1]));
    float scores[] = {0, -infinity, 0};
    kernels.softmax(scores, 3);
    CHECK(scores[0] == 0.5f);
    CHECK(scores[1] == 0.0f);
  });
}

TEST_CASE("softmax of the first columns of each row leaves zeros beyond") {
  ThreadPool pool(2);
  Matrix<float> store(40, 12);
  std::fill_n(store.data(), 40 * 12, 3.0f);
  std::vector<int> lengths;
  for (int r = 0; r < 40; ++r) lengths.push_back(r % 11);
  softmax(store.ref().cols(1, 10), lengths, pool);
  for (int r = 0; r < 40; ++r) {
    for (int c = 0; c < 10; ++c) {
      const int length = lengths[static_cast<std::size_t>(r)];
      // 1 / length by a reciprocal or a division: at most two roundings.
      const double expected = c < length ? 1.0 / length : 0;
      REQUIRE(std::fabs(store(r, c + 1) - expected) <= 2.001 * u * expected);
    }
    REQUIRE(store(r, 0) == 3.0f);
    REQUIRE(store(r, 11) == 3.0f);
  }
  lengths[3] = 11;
  CHECK_THROWS_AS(softmax(store.ref().cols(1, 10), lengths, pool), ContractViolation);
  lengths.pop_back();
  CHECK_THROWS_AS(softmax(store.ref(), lengths, pool), ContractViolation);
  CHECK_THROWS_AS(swiglu(store.ref(), store.ref().cols(0, 3), store.ref(), pool),
                  ContractViolation);
}

TEST_CASE("swiglu may write over its inputs") {
  ThreadPool pool(1);
  Matrix<float> gate(3, 21), up(3, 21), y(3, 21);
  for (int i = 0; i < 63; ++i) gate.data()[i] = 0.1f * static_cast<float>(i), up.data()[i] = 2;
  swiglu(gate.ref(), up.ref(), y.ref(), pool);
  swiglu(gate.ref(), up.ref(), up.ref(), pool);
  for (int i = 0; i < 63; ++i) REQUIRE(up.data()[i] == y.data()[i]);
}

}  // namespace
