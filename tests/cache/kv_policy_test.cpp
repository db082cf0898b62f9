// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_policy.hpp>
#include <limits>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

constexpr CacheShape shape{.layers = 2, .kv_heads = 3, .head_dim = 64, .capacity = 100};

TEST_CASE("a scheme's KV bits are a plain policy") {
  const auto scheme = Scheme::parse("W4A8K8V3-g64");
  REQUIRE(scheme);
  const KvPolicy policy = KvPolicy::of(*scheme);
  CHECK(policy == KvPolicy{.keys = {8}, .values = {3}});
  CHECK_FALSE(policy.exact());
  CHECK(KvPolicy::of(Scheme{}).exact());
  CHECK(check(shape, policy));
}

TEST_CASE("what no cache can hold is refused") {
  CHECK(check(shape, {.sinks = 4,
                      .recent = 64,
                      .keys = {4, 32},
                      .values = {2},
                      .rotate_keys = true,
                      .rotate_values = true}));
  for (const KvPolicy& policy :
       {KvPolicy{.sinks = -1}, KvPolicy{.recent = -1}, KvPolicy{.exact_type = DType::i8}, KvPolicy{.keys = {5}},
        KvPolicy{.values = {0}}, KvPolicy{.keys = {4, 20}}, KvPolicy{.keys = {4, 128}},
        KvPolicy{.key_clip = {0, 1}}, KvPolicy{.value_clip = {1, 1.5f}},
        KvPolicy{.key_clip = {std::numeric_limits<float>::quiet_NaN(), 1}}}) {
    const auto checked = check(shape, policy);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == Errc::out_of_range);
  }
  for (const CacheShape& wrong :
       {CacheShape{}, CacheShape{.layers = 1, .kv_heads = 1, .head_dim = 64},
        CacheShape{.layers = 1, .kv_heads = 1, .head_dim = 64, .capacity = 1, .scale = -1},
        CacheShape{.layers = 1, .kv_heads = 1, .head_dim = 64, .capacity = 1, .window = -1}}) {
    CHECK_FALSE(check(wrong, {}));
  }
}

TEST_CASE("a table says it for every layer and head, exact ones among them") {
  const KvEntry packed{.keys = {4}, .values = {2, 32}, .value_clip = {0.9f, 1}}, exact{};
  KvPolicy policy{.keys = {8}, .table = {exact, exact, exact, exact, packed, exact}};
  CHECK(check(shape, policy));
  CHECK(policy.entry(1, 1, 3) == packed);
  CHECK(policy.entry(0, 1, 3) == exact);
  CHECK_FALSE(policy.exact());
  policy.table[4] = exact;
  CHECK(policy.exact());  // whatever the fields beside the table say
  policy.table[5].keys.bits = 7;
  CHECK_FALSE(check(shape, policy));
  policy.table[5] = {.value_clip = {0, 1}};
  CHECK_FALSE(check(shape, policy));
  policy.table.pop_back();
  CHECK_FALSE(check(shape, policy));
  CHECK((KvPolicy{.key_clip = {0.5f, 1}}.entry(0, 0, 3) == KvEntry{.key_clip = {0.5f, 1}}));
}

TEST_CASE("rotation needs a power of two") {
  CacheShape odd = shape;
  odd.head_dim = 96;
  CHECK(check(odd, {}));
  REQUIRE_FALSE(check(odd, {.rotate_keys = true, .rotate_values = true}));
  CHECK(check(odd, {.rotate_keys = true, .rotate_values = true}).error().describe().find("96") !=
        std::string::npos);
}

TEST_CASE("the law as limits says what it says of pairs") {
  for (const KvLaw& law : {KvLaw{}, KvLaw{.exact_below = 3, .recent = 4},
                           KvLaw{.exact_below = 2, .recent = 5, .forgotten = 9, .window = 7}}) {
    for (int i = 0; i < 20; ++i) {
      for (int j = 0; j < 20; ++j) {
        CHECK(law.visible(i, j) == (law.first_visible(i) <= j && j <= i));
        if (j <= i) CHECK(law.exact(i, j) == (j < law.exact_below || j >= law.first_recent(i)));
      }
    }
  }
}

}  // namespace
