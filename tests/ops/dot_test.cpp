// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/ops/dot.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("inner products of any length") {
  std::vector<float> x, y;
  double sum = 0, magnitude = 0;
  for (int n = 0; n < 70; ++n) {
    CHECK(std::fabs(dot(x, y) - sum) <= 0x1p-24 * (n / 16 + 1) * magnitude);
    x.push_back(std::sin(static_cast<float>(n))),
        y.push_back(std::cos(2.0f * static_cast<float>(n)));
    const double product = static_cast<double>(x.back()) * static_cast<double>(y.back());
    sum += product, magnitude += std::fabs(product);
  }
}

}  // namespace
