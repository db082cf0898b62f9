// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/allocate/kv_search.hpp>
#include <bisup/llama/stored_prompt.hpp>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"

namespace {

using namespace bisup;

// KL of one layer's keys, or values, alone in 2 bits, by the search and by the whole model's
// session.
void require_what_sessions_say(const llama::Model& model) {
  const auto ids = test::some_ids(60);
  const KvPolicy policy{.sinks = 1, .recent = 4, .rotate_keys = true};
  const KvSearchOptions options{.bits = {2, 8}, .windows = {.context = 30}, .every = 1};
  const auto sensitivity = kv_sensitivity(model, ids, policy, options);
  REQUIRE(sensitivity);
  REQUIRE(sensitivity->size() == static_cast<std::size_t>(model.config.layers));
  for (int layer = 0; layer < model.config.layers; ++layer) {
    for (const int side : {0, 1}) {
      KvPolicy one = policy;
      one.table.assign(static_cast<std::size_t>(model.config.layers * model.config.kv_heads), {});
      for (int head = 0; head < model.config.kv_heads; ++head) {
        KvEntry& entry = one.table[static_cast<std::size_t>(layer * model.config.kv_heads + head)];
        (side == 0 ? entry.keys : entry.values).bits = 2;
      }
      const auto expected = divergence(model, one, model, {}, ids, {.context = 30});
      REQUIRE(expected);
      const auto& found =
          (*sensitivity)[static_cast<std::size_t>(layer)][static_cast<std::size_t>(side)];
      // divergence() leaves out a window's last position, of 30.
      CHECK(found[0] == Approx(expected->kl_mean).epsilon(0.25));
      CHECK(found[0] > found[1]);
      CHECK(found[1] >= 0);
    }
  }
}

TEST_CASE("one layer's rounding alone moves predictions as the whole model's session says") {
  auto model = test::small_model();
  require_what_sessions_say(model);
  model.prompt = llama::store_prompt(model, std::vector<int>{4, 5, 9}).value();
  require_what_sessions_say(model);
}

TEST_CASE("a stored prompt's positions come on top of the model's") {
  auto model = test::small_model();
  model.config.max_positions = 30;
  model.prompt = llama::store_prompt(model, std::vector<int>{4, 5, 9}).value();
  require_what_sessions_say(model);
  const auto refused = kv_sensitivity(model, test::some_ids(60), {}, {.windows = {.context = 31}});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Errc::out_of_range);
}

TEST_CASE("bits go where they are missed, within the budget") {
  // The keys of the second layer suffer, the others hardly.
  const KvSensitivity sensitivity = {{{{0.2, 0.1, 0.0}, {0.1, 0.05, 0.0}}},
                                     {{{9.0, 4.0, 0.1}, {0.1, 0.05, 0.0}}}};
  const KvSearchOptions options{.bits = {2, 3, 4}, .budget = 2.75};
  const KvPolicy base{.sinks = 4, .recent = 64, .keys = {2, 32}, .rotate_values = true};
  const auto found = search_kv(sensitivity, 2, base, options);
  REQUIRE(found);
  REQUIRE(found->table.size() == 4);
  CHECK(found->table[0] == found->table[1]);
  CHECK(found->table[2].keys == KvFormat{4, 32});
  CHECK(found->table[2].values.bits == 2);
  CHECK(found->table[0].keys.bits == 3);
  CHECK(found->table[0].values.bits == 2);
  CHECK(found->sinks == 4);
  CHECK(found->rotate_values);
  CHECK_FALSE(search_kv(sensitivity, 2, base, {.bits = {2, 3, 4}, .budget = 1.9}));
  // A uniform table is the best one when all suffer alike.
  const KvSensitivity same(2, {std::vector<double>{1, 0.3, 0.1}, std::vector<double>{1, 0.3, 0.1}});
  const auto uniform = search_kv(same, 1, {}, {.bits = {2, 3, 4}, .budget = 3});
  REQUIRE(uniform);
  for (const KvEntry& entry : uniform->table) CHECK(entry.keys.bits + entry.values.bits == 6);
}

}  // namespace
