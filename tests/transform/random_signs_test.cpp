// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/transform/random_signs.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

std::vector<double> signs(int count, std::uint64_t seed) {
  std::vector<double> x(static_cast<std::size_t>(count), 1.0);
  RandomSigns{count, seed}.apply(std::span(x));
  return x;
}

TEST_CASE("about half of the signs are minus, and seeds differ") {
  const int n = 4096;
  const auto one = signs(n, 1), two = signs(n, 2);
  double sum = 0, agreement = 0, neighbours = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    REQUIRE(std::fabs(one[i]) == 1);
    sum += one[i], agreement += one[i] * two[i];
    neighbours += one[i] * one[(i + 1) % one.size()];
  }
  // Six standard deviations of a sum of n independent signs.
  CHECK(std::fabs(sum) <= 6 * std::sqrt(n));
  CHECK(std::fabs(agreement) <= 6 * std::sqrt(n));
  CHECK(std::fabs(neighbours) <= 6 * std::sqrt(n));
  const auto fewer = signs(100, 1);
  CHECK(std::equal(fewer.begin(), fewer.end(), one.begin()));
}

TEST_CASE("the randomised rotation is signs, then Hadamard; a spike becomes flat") {
  ThreadPool pool(1);
  const auto rotation = RandomizedHadamard::make({1, 576, 1}, 3).value();
  CHECK(rotation.seed() == 3);
  CHECK(rotation.axis() == HadamardAxis{1, 576, 1});
  CHECK_FALSE(rotation == RandomizedHadamard::make({1, 576, 1}, 4).value());
  Matrix<float> rows(4, 576);
  for (int r = 0; r < 4; ++r) rows(r, 100 * r) = 24;
  auto expected = rows.clone();
  rotation.apply(rows.ref(), pool);
  for (int r = 0; r < 4; ++r) {
    RandomSigns{576, 3}.apply(expected.row(r));
    Hadamard::make({1, 576, 1})->apply(expected.row(r));
    for (int c = 0; c < 576; ++c) {
      REQUIRE(rows(r, c) == expected(r, c));
      // 24 / sqrt(576), whose root and quotient round, and their product.
      REQUIRE(std::fabs(std::fabs(rows(r, c)) - 1) <= 3 * 1.001 * 0x1p-24);
    }
  }
  const auto impossible = RandomizedHadamard::make({1, 14, 1}, 3);
  REQUIRE_FALSE(impossible);
  CHECK(impossible.error().message.find("14") != std::string::npos);
}

}  // namespace
