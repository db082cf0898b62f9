// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/segment_walk.hpp>
#include <set>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

TEST_CASE("samples come in permutations, each pass in its own order") {
  std::vector<int> first, second;
  for (int n = 0; n < 10; ++n) first.push_back(shuffled(n, 10, 4));
  for (int n = 10; n < 20; ++n) second.push_back(shuffled(n, 10, 4));
  CHECK(std::set<int>(first.begin(), first.end()).size() == 10);
  CHECK(std::set<int>(second.begin(), second.end()).size() == 10);
  CHECK(first != second);
}

TEST_CASE("a pass reads every token once, a sample's segments one after the other") {
  const std::vector<int> lengths = {8, 1, 9, 4, 23, 3, 12};
  const SegmentWalk walk(lengths, 4, 5);
  constexpr int segments = 2 + 1 + 3 + 1 + 6 + 1 + 3;
  std::vector<std::vector<int>> orders;
  for (int pass = 0; pass < 3; ++pass) {
    std::vector<int> read(lengths.size()), order;
    for (int n = 0; n < segments; ++n) {
      const Segment segment = walk.at(pass * segments + n);
      const auto sample = static_cast<std::size_t>(segment.sample);
      REQUIRE(segment.first == read[sample]);
      if (segment.first == 0) {
        order.push_back(segment.sample);
      } else {
        REQUIRE(segment.sample == order.back());
      }
      read[sample] += segment.tokens;
      REQUIRE(segment.last == (read[sample] == lengths[sample]));
      REQUIRE((segment.tokens == 4 || (segment.last && segment.tokens < 4 && segment.tokens > 0)));
    }
    CHECK(read == lengths);
    orders.push_back(order);
  }
  CHECK(orders[0] != orders[1]);
  CHECK(orders[1] != orders[2]);
}

TEST_CASE("samples no longer than a segment are walked through as whole ones") {
  const SegmentWalk walk({7, 5, 7, 2, 6}, 7, 3);
  for (int step = 0; step < 20; ++step) {
    const Segment segment = walk.at(step);
    CHECK(segment.sample == shuffled(step, 5, 3));
    CHECK((segment.first == 0 && segment.last));
  }
}

TEST_CASE("a walk through nothing, or by nothing, cannot be") {
  CHECK_THROWS_AS(SegmentWalk({}, 4, 0), ContractViolation);
  CHECK_THROWS_AS(SegmentWalk({3, 0}, 4, 0), ContractViolation);
  CHECK_THROWS_AS(SegmentWalk({3}, 0, 0), ContractViolation);
}

}  // namespace
