// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/dispatch.hpp>

#include <bisup_test.hpp>

using namespace bisup;

namespace {

constexpr std::array table = {Entry<int>{Target::avx512_vnni, 3}, Entry<int>{Target::avx2, 2}, Entry<int>{Target::scalar, 1}};

}  // namespace

TEST_CASE("the strongest entry that the target includes is chosen") {
  STATIC_REQUIRE(choose(table, Target::avx512_vnni).function == 3);
  STATIC_REQUIRE(choose(table, Target::avx512).function == 2);
  STATIC_REQUIRE(choose(table, Target::avx_vnni).function == 2);
  STATIC_REQUIRE(choose(table, Target::avx2).function == 2);
  STATIC_REQUIRE(choose(table, Target::neon).function == 1);
  STATIC_REQUIRE(choose(table, Target::scalar).function == 1);
}
