// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/vocabulary.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <map>
#include <string>
#include <utility>

namespace {

using namespace bisup;
using namespace bisup::text;

TEST_CASE("strings and ids are found from both sides, holes included") {
  Vocabulary vocabulary;
  CHECK(vocabulary.find("a") == no_token);
  for (int id = 0; id < 3000; id += 3) REQUIRE(vocabulary.add(id, "token" + std::to_string(id)));
  CHECK(vocabulary.size() == 2998);
  for (int id = -1; id < 3001; ++id) {
    const bool there = id >= 0 && id < 3000 && id % 3 == 0;
    REQUIRE(vocabulary.contains(id) == there);
    REQUIRE(vocabulary.token(id) == (there ? "token" + std::to_string(id) : ""));
    REQUIRE(vocabulary.find("token" + std::to_string(id)) == (there ? id : no_token));
  }
  CHECK_FALSE(vocabulary.add(3, "other"));
  CHECK_FALSE(vocabulary.add(1, "token3"));
  CHECK(vocabulary.add(1, ""));
  CHECK(vocabulary.find("") == 1);
}

TEST_CASE("a map of pairs agrees with std::map and keeps the lowest rank") {
  PairMap pairs;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> expected;
  Random random(8);
  for (int i = 0; i < 5000; ++i) {
    const std::uint32_t a = random.below(60), b = random.below(60), rank = random.below(1000);
    pairs.insert(a, b, {rank, static_cast<int>(rank) + 7});
    const auto [at, fresh] = expected.emplace(std::pair(a, b), rank);
    if (!fresh && rank < at->second) at->second = rank;
  }
  for (std::uint32_t a = 0; a < 61; ++a) {
    for (std::uint32_t b = 0; b < 61; ++b) {
      const auto at = expected.find({a, b});
      REQUIRE(pairs.contains(a, b) == (at != expected.end()));
      if (at != expected.end()) REQUIRE(pairs.find(a, b).id == static_cast<int>(at->second) + 7);
    }
  }
}

}  // namespace
