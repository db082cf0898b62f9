// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_cache.hpp>
#include <bisup/cache/prompt_cache.hpp>

#include <bisup_test.hpp>

#include "plain_cache.hpp"

namespace {

using namespace bisup;
using bisup_test::random_matrix;

TEST_CASE("a prompt gives back what it was given, in its type") {
  Random random(1);
  const auto keys = random_matrix(random, 5, 24), values = random_matrix(random, 5, 24);
  for (const DType type : {DType::f16, DType::f32}) {
    PromptCache prompt({1, 2, 3, 4, 5}, 2, 3, 8, type);
    prompt.set(1, keys.ref(), values.ref());
    CHECK(prompt.tokens() == 5);
    CHECK(prompt.bytes() == 2u * 2 * 5 * 24 * static_cast<std::size_t>(bytes_of(type)));
    for (int t = 0; t < 5; ++t) {
      for (int i = 0; i < 24; ++i) {
        const bool half = type == DType::f16;
        CHECK(prompt.keys(1)(t, i) == (half ? to_float(to_half(keys(t, i))) : keys(t, i)));
        CHECK(prompt.values(1)(t, i) == (half ? to_float(to_half(values(t, i))) : values(t, i)));
        CHECK(prompt.keys(0)(t, i) == 0);
      }
    }
  }
}

TEST_CASE("no prompt is a prompt of no tokens") {
  const PromptCache none;
  CHECK(none.empty());
  CHECK(none.tokens() == 0);
  CHECK(none.bytes() == 0);
}

TEST_CASE("a prompt of another model, or longer than the cache, is refused") {
  const PromptCache prompt({1, 2, 3}, 2, 3, 32);
  CHECK(KvCache::allocate({.layers = 2, .kv_heads = 3, .head_dim = 32, .capacity = 3}, {}, prompt));
  const auto other =
      KvCache::allocate({.layers = 2, .kv_heads = 1, .head_dim = 32, .capacity = 9}, {}, prompt);
  REQUIRE_FALSE(other);
  CHECK(other.error().code == Errc::wrong_shape);
  const auto small =
      KvCache::allocate({.layers = 2, .kv_heads = 3, .head_dim = 32, .capacity = 2}, {}, prompt);
  REQUIRE_FALSE(small);
  CHECK(small.error().code == Errc::cache_full);
  Matrix<float> short_rows(2, 96), rows(3, 96);
  PromptCache filled({1, 2, 3}, 2, 3, 32);
  CHECK_THROWS_AS(filled.set(0, short_rows.ref(), rows.ref()), ContractViolation);
  CHECK_THROWS_AS(filled.set(2, rows.ref(), rows.ref()), ContractViolation);
}

TEST_CASE("a request loses the prompt that it begins with, or a BOS that is there already") {
  using Ids = std::vector<int>;
  constexpr int bos = 1;
  const PromptCache none, only_bos({bos}, 1, 1, 32), talk({bos, 7, 8}, 1, 1, 32);
  const auto left = [&](const Ids& ids, const PromptCache& prompt) {
    const auto rest = after_prompt(ids, prompt, bos);
    return Ids(rest.begin(), rest.end());
  };
  CHECK(left({bos, 7, 8, 9}, talk) == Ids{9});
  CHECK(left({bos, 5, 8, 9}, talk) == Ids{5, 8, 9});
  CHECK(left({5, bos, 9}, talk) == Ids{5, bos, 9});
  CHECK(left({bos, 5}, only_bos) == Ids{5});
  CHECK(left({bos, 7, 8}, talk) == Ids{7, 8});  // said, but not answered
  CHECK(left({bos}, only_bos) == Ids{bos});
  CHECK(left({bos, 5}, none) == Ids{bos, 5});
  // A token that no tokenizer puts there is part of what is said.
  const Ids turn = {bos, 5};
  CHECK(after_prompt(turn, talk).size() == 2);
  const PromptCache other({7, 8}, 1, 1, 32);
  CHECK(left({bos, 5}, other) == Ids{bos, 5});
}

}  // namespace
