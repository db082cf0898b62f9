// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bisup/quant/error_report.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("each measure by hand") {
  std::array<float, 4> x = {1, -2, 3, 4}, y = {1, 1, 3, 2};
  const std::array<float, 2> power = {1, 10};
  const auto e = error_report(MatrixRef<const float>(x.data(), 2, 2),
                              MatrixRef<const float>(y.data(), 2, 2), power);
  CHECK(e.largest == 3);
  CHECK(e.root_mean_square == Approx(std::sqrt(13.0 / 4)).epsilon(1e-15));
  CHECK(e.relative == Approx(13.0 / 30).epsilon(1e-15));
  CHECK(e.weighted == Approx((90.0 + 40.0) / (1 + 40 + 9 + 160)).epsilon(1e-15));
  CHECK(e.sign_flips == 1);
}

TEST_CASE("no error is zero, and a matrix of zeros divides by nothing") {
  std::array<float, 2> x = {0, 0};
  const auto e =
      error_report(MatrixRef<const float>(x.data(), 1, 2), MatrixRef<const float>(x.data(), 1, 2));
  CHECK(e.largest == 0);
  CHECK(e.relative == 0);
}

}  // namespace
