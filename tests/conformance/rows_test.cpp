// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/add.hpp>
#include <bisup/ops/rms_norm.hpp>
#include <bisup/ops/rope.hpp>
#include <cmath>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

std::vector<float> normals(int count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

TEST_CASE("rms_norm of every target is within its bound of the exact result") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (const int n : {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 172, 576}) {
      CAPTURE(name(target), n);
      const auto x = normals(n, 1), weight = normals(n, 2);
      std::vector<float> y(x.size() + 1, untouched);
      kernels.rms_norm(x.data(), weight.data(), n, 1e-5f, y.data());
      double sum = 0;
      for (const float v : x) sum += static_cast<double>(v) * v;
      const double inverse = 1 / std::sqrt(sum / n + static_cast<double>(1e-5f));
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double exact = x[i] * inverse * weight[i];
        // The root halves the n roundings of the sum and those of the mean and of adding eps; then
        // come the root, the division and two products, one each.
        REQUIRE(std::fabs(y[i] - exact) <= (n / 2.0 + 5) * 1.001 * u * std::fabs(exact));
      }
      REQUIRE(y.back() == untouched);
      auto in_place = x;
      kernels.rms_norm(in_place.data(), weight.data(), n, 1e-5f, in_place.data());
      y.pop_back();
      REQUIRE(in_place == y);
    }
  });
}

TEST_CASE("rope of every target turns each pair by its angle") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (const int half : {1, 4, 5, 8, 16, 21, 32, 64}) {
      CAPTURE(name(target), half);
      constexpr int heads = 3;
      const auto before = normals(heads * 2 * half, 3);
      std::vector<float> cosines, sines;
      for (int i = 0; i < half; ++i) {
        cosines.push_back(std::cos(0.7f * static_cast<float>(i + 1)));
        sines.push_back(std::sin(0.7f * static_cast<float>(i + 1)));
      }
      auto x = before;
      x.push_back(untouched);
      kernels.rope(x.data(), heads, half, cosines.data(), sines.data());
      REQUIRE(x.back() == untouched);
      for (int i = 0; i < heads * 2 * half; ++i) {
        const int pair = i % half, first = i / (2 * half) * 2 * half + pair;
        const double a = before[static_cast<std::size_t>(first)];
        const double b = before[static_cast<std::size_t>(first + half)];
        const double c = cosines[static_cast<std::size_t>(pair)],
                     s = sines[static_cast<std::size_t>(pair)];
        const bool low = i == first;
        const double exact = low ? a * c - b * s : b * c + a * s;
        const double magnitude =
            low ? std::fabs(a * c) + std::fabs(b * s) : std::fabs(b * c) + std::fabs(a * s);
        // One rounding a product, one for their sum.
        REQUIRE(std::fabs(x[static_cast<std::size_t>(i)] - exact) <= 2.001 * u * magnitude);
      }
    }
  });
}

TEST_CASE("add of every target is exact to the bit") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (const int n : {0, 1, 7, 8, 9, 16, 31, 172}) {
      CAPTURE(name(target), n);
      const auto x = normals(n, 4);
      auto y = normals(n + 1, 5), expected = y;
      scalar::add(x.data(), n, expected.data());
      kernels.add(x.data(), n, y.data());
      REQUIRE(y == expected);
    }
  });
}

TEST_CASE("operations on rows reach every row of a view, whatever the threads") {
  ThreadPool one(1), three(3);
  for (ThreadPool* pool : {&one, &three}) {
    Matrix<float> store(302, 172 + 4), other(300, 172);
    std::fill_n(store.data(), 302 * 176, 2.0f);
    std::fill_n(other.data(), 300 * 172, 1.0f);
    const MatrixRef<float> x = store.ref().rows(1, 300).cols(3, 172);
    add(other.ref(), x, *pool);
    const std::vector<float> weight(172, 5.0f);
    rms_norm(x, weight, 0, x, *pool);
    Matrix<float> cosines(300, 43), sines(300, 43);
    std::fill_n(cosines.data(), 300 * 43, 0.0f);
    std::fill_n(sines.data(), 300 * 43, 1.0f);
    rope(x, cosines.ref(), sines.ref(), *pool);
    for (int r = 0; r < 302; ++r) {
      for (int c = 0; c < 176; ++c) {
        const bool inside = r >= 1 && r <= 300 && c >= 3 && c < 175;
        // A quarter turn of (5, 5) is (-5, 5); a constant row has its constant as root mean square.
        const float expected = !inside ? 2.0f : (c - 3) % 86 < 43 ? -5.0f : 5.0f;
        REQUIRE(std::fabs(store(r, c) - expected) <= 100 * u * 5);
      }
    }
  }
}

TEST_CASE("rows that do not fit are refused") {
  ThreadPool pool(1);
  Matrix<float> x(2, 8), y(2, 7), angles(2, 3), wide(2, 4);
  const std::vector<float> weight(7);
  CHECK_THROWS_AS(add(x.ref(), y.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(rms_norm(x.ref(), weight, 0, x.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(rope(x.ref(), angles.ref(), angles.ref(), pool), ContractViolation);
  CHECK_THROWS_AS(rope(x.ref(), wide.ref(), angles.ref(), pool), ContractViolation);
}

}  // namespace
