// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/transform/smoothing_scales.hpp>
#include <cmath>
#include <limits>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using Values = std::vector<double>;

constexpr double u = std::numeric_limits<double>::epsilon();

TEST_CASE("the prior is SmoothQuant's formula with geometric mean 1") {
  const Values inputs = {100, 1, 0, 4}, weights = {0.5, 0.5, 2, 0};
  const auto prior = smoothing_prior<double>(inputs, weights, 0.75);
  double sum = 0;
  for (const double p : prior) sum += p;
  CHECK(std::fabs(sum) <= 8 * u * 20);  // logarithms below 20, four of them and their mean
  // Differences do not depend on the mean.
  CHECK(std::fabs(prior[0] - prior[1] - 0.75 * std::log(100)) <= 8 * u * 20);
  CHECK(std::fabs(prior[1] - prior[2] - (-0.25 * std::log(0.25) - 0.75 * std::log(1e-5))) <=
        8 * u * 20);
  CHECK(std::fabs(prior[3] - prior[1] - (0.75 * std::log(4) - 0.25 * std::log(2e-5))) <=
        8 * u * 20);
  CHECK_THROWS_AS(smoothing_prior<double>(inputs, Values{1}, 0.5), ContractViolation);
}

TEST_CASE("scales start at the prior and stay within a factor 2 of it") {
  const Values prior = {-1, 0, 0.5}, none(3, 0.0);
  const auto start = smoothing_scales<double>(prior, none, 1);
  for (std::size_t i = 0; i < 3; ++i) CHECK(start[i] == std::exp(prior[i]));
  CHECK(smoothing_scales<double>(prior, none, 0) == Values{1, 1, 1});
  const auto small = smoothing_scales<double>(prior, Values{1e-4, 1e-4, 1e-4}, 1);
  const auto large = smoothing_scales<double>(prior, Values{50, -50, 50}, 1);
  for (std::size_t i = 0; i < 3; ++i) {
    // tanh x = x - x^3 / 3: a small theta is the change of ln s.
    CHECK(std::fabs(std::log(small[i] / start[i]) - 1e-4) <= 1e-12);
    CHECK(std::fabs(large[i] / start[i] - (i == 1 ? 0.5 : 2)) <= 16 * u);  // exp(a + b) / exp(a)
  }
  CHECK_THROWS_AS(smoothing_scales<double>(prior, Values{1}, 1), ContractViolation);
}

}  // namespace
