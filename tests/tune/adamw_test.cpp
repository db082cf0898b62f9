// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/adamw.hpp>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup::tune;

TEST_CASE("three steps by hand") {
  // beta1 0.5, beta2 0.75, epsilon 0, rate 0.1, gradients 1, 2, -1. First moments 0.5, 1.25, 0.125,
  // corrected by 0.5, 0.75, 0.875: 1, 5/3, 1/7. Second moments 0.25, 1.1875, 1.140625, corrected by
  // 0.25, 0.4375, 0.578125: 1, 19/7, 73/37. Steps: 0.1, 0.1 (5/3) / sqrt(19/7), 0.1 / 7 /
  // sqrt(73/37).
  const AdamWOptions options{.beta1 = 0.5, .beta2 = 0.75, .epsilon = 0};
  std::vector<double> value = {3};
  AdamW<double> adamw;
  double expected = 3;
  const double gradients[] = {1, 2, -1};
  const double steps[] = {0.1, 0.1 * 5 / 3 / std::sqrt(19.0 / 7), 0.1 / 7 / std::sqrt(73.0 / 37)};
  for (int i = 0; i < 3; ++i) {
    adamw.step(value, std::vector<double>{gradients[i]}, 0.1, options);
    expected -= steps[i];
    CHECK(value[0] == Approx(expected).epsilon(1e-14));  // a handful of roundings a step
  }
}

TEST_CASE("decay pulls the value, not the gradient; a scale acts on the gradient") {
  const AdamWOptions options{.epsilon = 1, .decay = 0.5};
  std::vector<double> value = {8}, half = {0};
  AdamW<double> a, b;
  a.step(value, std::vector<double>{0}, 0.25, options);
  CHECK(value[0] == 7);  // 8 (1 - 0.25 * 0.5)
  b.step(half, std::vector<double>{4}, 1, {.epsilon = 1}, 0.5);
  CHECK(half[0] == Approx(-2.0 / 3).epsilon(1e-14));  // 2 / (2 + 1)
}

TEST_CASE("what is reset starts again") {
  std::vector<double> value = {0};
  AdamW<double> adamw;
  adamw.step(value, std::vector<double>{1}, 1, {.epsilon = 0});
  adamw.reset(1);
  adamw.step(value, std::vector<double>{-1}, 1, {.epsilon = 0});
  CHECK(value[0] == Approx(0).margin(1e-14));  // the first step's length is the rate itself
}

}  // namespace
