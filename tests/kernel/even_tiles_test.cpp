// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/kernel/even_tiles.hpp>
#include <vector>

#include <bisup_test.hpp>

namespace {

TEST_CASE("tiles follow each other, at most six rows each, as few as can be and nearly even") {
  for (const int first : {0, 5}) {
    for (int rows = 0; rows < 40; ++rows) {
      CAPTURE(first, rows);
      std::vector<int> heights;
      int next = first;
      bisup::each_tile(first, first + rows, [&]<int Rows>(int row) {
        REQUIRE(row == next);
        heights.push_back(Rows), next += Rows;
      });
      REQUIRE(next == first + rows);
      REQUIRE(static_cast<int>(heights.size()) == (rows + 5) / 6);
      if (rows == 0) continue;
      const auto [least, most] = std::minmax_element(heights.begin(), heights.end());
      REQUIRE(*most <= 6);
      REQUIRE(*most - *least <= 1);
    }
  }
}

}  // namespace
