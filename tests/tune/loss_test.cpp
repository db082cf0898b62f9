// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/loss.hpp>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

TEST_CASE("the first token and the largest ones do not count") {
  Matrix<double> target(5, 2);
  for (int t = 0; t < 5; ++t) target(t, 0) = t == 3 ? -9 : t, target(t, 1) = 1;
  CHECK(counted_tokens<double>(target.ref(), {.first = false}) == std::vector<char>{1, 1, 1, 1, 1});
  CHECK(counted_tokens<double>(target.ref(), {}) == std::vector<char>{0, 1, 1, 1, 1});
  CHECK(counted_tokens<double>(target.ref(), {.largest = 2}) == std::vector<char>{0, 1, 1, 0, 0});
  CHECK(counted_tokens<double>(target.ref(), {.largest = 9}) == std::vector<char>{0, 0, 0, 0, 0});
}

TEST_CASE("squared error and moments have the gradients of finite differences") {
  auto y = difference::normals(7, 5, 1, 1);
  const auto target = difference::normals(7, 5, 1, 2);
  const std::vector<char> counted = {0, 1, 1, 0, 1, 1, 1};
  ThreadPool pool(1);
  RoundingTape unused;
  Matrix<double> squares(7, 5), moments(7, 5);
  const double error =
      squared_error<double>(y.ref(), target.ref(), counted, 0.5, squares.ref(), pool);
  const double distance = moment_distance<double>(y.ref(), target.ref(), counted, 2, moments.ref());
  double by_hand = 0;
  for (int t = 0; t < 7; ++t) {
    for (int c = 0; c < 5; ++c) {
      if (counted[static_cast<std::size_t>(t)]) by_hand += std::pow(y(t, c) - target(t, c), 2);
    }
  }
  CHECK(error == Approx(by_hand).epsilon(1e-14));
  CHECK(power<double>(target.ref(), counted) > 0);
  for (int t = 0; t < 7; ++t) {
    for (int c = 0; c < 5; ++c) {
      const double of_error = difference::derivative(unused, y(t, c), [&] {
        return 0.5 * squared_error<double>(y.ref(), target.ref(), counted, 0, {}, pool);
      });
      const double of_moments = difference::derivative(unused, y(t, c), [&] {
        return 2 * moment_distance<double>(y.ref(), target.ref(), counted, 0, {});
      });
      REQUIRE(difference::close(squares(t, c), of_error, 1));
      REQUIRE(difference::close(moments(t, c), of_moments, 1));
    }
  }
  CHECK(distance > 0);
  CHECK(moment_distance<double>(target.ref(), target.ref(), counted, 1, {}) == 0);
}

TEST_CASE("moments are a share of the target's: twice a target is at distance one") {
  const auto target = difference::normals(6, 3, 1, 2);
  auto y = target.clone();
  for (int t = 0; t < 6; ++t) {
    for (double& v : y.row(t)) v *= 2;
  }
  const std::vector<char> counted(6, 1);
  CHECK(moment_distance<double>(y.ref(), target.ref(), counted, 1, {}) == Approx(1));
}

}  // namespace
