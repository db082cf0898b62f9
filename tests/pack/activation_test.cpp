// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/pack/activation.hpp>

#include <bisup_test.hpp>

using namespace bisup;

TEST_CASE("codes are padded to tiles, sums and scales follow the groups") {
  QuantizedActivation x;
  x.resize({.group = 64}, 3, 140);
  ActivationView view = x.view();
  REQUIRE(view.tokens == 3);
  REQUIRE(view.cols == 140);
  REQUIRE(view.padded_cols == 160);
  REQUIRE(view.groups == 3);
  REQUIRE(view.scale_groups == 3);
  x.resize({.group = 0}, 3, 140);
  REQUIRE(x.view().groups == 1);
  REQUIRE(x.view().scale_groups == 1);
}

TEST_CASE("a scale is the group's, or the token's for all groups") {
  QuantizedActivation x;
  x.resize({.group = 32}, 2, 64);
  x.scales()(1, 0) = 3, x.scales()(1, 1) = 4;
  REQUIRE(x.view().scale(1, 0) == 3);
  REQUIRE(x.view().scale(1, 1) == 4);
  x.resize({.group = 32, .token_scales = true}, 2, 64);
  x.scales()(0, 0) = 5, x.scales()(1, 0) = 6;
  REQUIRE(x.view().groups == 2);
  REQUIRE(x.view().scale(0, 1) == 5);
  REQUIRE(x.view().scale(1, 1) == 6);
}

TEST_CASE("memory is reused, and what is no activation format is refused") {
  QuantizedActivation x;
  x.resize({.group = 32}, 8, 256);
  const std::int8_t* codes = x.view().codes;
  x.resize({.group = 64}, 4, 128);
  REQUIRE(x.view().codes == codes);
  REQUIRE(x.format().group == 64);
  REQUIRE_THROWS_AS(x.resize({.bits = 9}, 1, 32), ContractViolation);
  REQUIRE_THROWS_AS(x.resize({.bits = 1}, 1, 32), ContractViolation);
  REQUIRE_THROWS_AS(x.resize({.group = 48}, 1, 32), ContractViolation);
}
