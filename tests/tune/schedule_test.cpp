// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/schedule.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup::tune;

TEST_CASE("the rate rises in equal parts, then falls along a cosine to its last share") {
  const Schedule schedule{.warm_up = 0.2, .last = 0.1};
  CHECK(schedule.at(0, 21) == Approx(0.2));  // ceil(4.2) = 5 rising steps
  CHECK(schedule.at(3, 21) == Approx(0.8));
  CHECK(schedule.at(4, 21) == 1);
  CHECK(schedule.at(5, 21) == 1);
  CHECK(schedule.at(20, 21) == Approx(0.1));
  const double middle = 0.1 + 0.9 * 0.5 * (1 + std::cos(std::acos(-1.0) * 7 / 15));
  CHECK(schedule.at(12, 21) == Approx(middle));
  for (int step = 6; step < 21; ++step) CHECK(schedule.at(step, 21) < schedule.at(step - 1, 21));
}

TEST_CASE("a single step has a rate, a step beyond the last none") {
  CHECK(Schedule{}.at(0, 1) == 1);
  CHECK(Schedule{.warm_up = 0}.at(0, 1) == 1);
  CHECK_THROWS_AS(Schedule{}.at(1, 1), bisup::ContractViolation);
}

}  // namespace
