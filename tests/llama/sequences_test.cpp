// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/llama/sequences.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "golden_models.hpp"

namespace {

using namespace bisup;

std::vector<int> varied_ids(int count, int seed) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back((37 * i + 11 * seed + i * i % 7) % 128);
  return ids;
}

double largest_difference(std::span<const float> a, std::span<const float> b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return worst;
}

// Logits of the last of `ids` from a session of its own.
std::vector<float> alone(const llama::Model& model, const std::vector<int>& ids,
                         const KvPolicy& policy) {
  auto session = llama::Session::make(model, 64, policy);
  REQUIRE(session);
  const auto logits = session->next_logits(ids);
  return {logits.begin(), logits.end()};
}

TEST_CASE("prompts and single tokens of many sequences in one forward, as each by itself") {
  for (const char* name : {"llama", "qwen3", "mistral_window"}) {
    const auto model = test::small_model(name);
    for (const KvPolicy& policy : {KvPolicy{}, KvPolicy{.sinks = 2,
                                               .recent = 16,
                                               .keys = {4},
                                               .values = {3},
                                               .fit_scales = true,
                                               .center_keys = true}}) {
      auto made = llama::Sequences::make(model, 64, policy, {.sequences = 4});
      REQUIRE(made);
      llama::Sequences sequences = std::move(made).value();
      std::vector<std::vector<int>> said(4);
      std::vector<int> number;
      for (int i = 0; i < 4; ++i) number.push_back(sequences.begin().value());
      // Lengths of each round: prompts of different lengths, then some go on while others begin.
      const int rounds[][4] = {{21, 1, 0, 7}, {1, 1, 30, 1}, {1, 0, 1, 5}, {12, 20, 1, 1}};
      for (const auto& lengths : rounds) {
        std::vector<std::vector<int>> pieces(4);
        std::vector<llama::Sequences::Next> nexts;
        for (int i = 0; i < 4; ++i) {
          auto& piece = pieces[static_cast<std::size_t>(i)];
          piece = varied_ids(lengths[i],
                             static_cast<int>(said[static_cast<std::size_t>(i)].size()) + i);
          if (piece.empty()) continue;
          nexts.push_back({number[static_cast<std::size_t>(i)], piece});
          auto& all = said[static_cast<std::size_t>(i)];
          all.insert(all.end(), piece.begin(), piece.end());
        }
        const auto logits = sequences.forward(nexts);
        REQUIRE(logits);
        int row = 0;
        for (int i = 0; i < 4; ++i) {
          if (lengths[i] == 0) continue;
          const auto& all = said[static_cast<std::size_t>(i)];
          CHECK(sequences.size(number[static_cast<std::size_t>(i)]) ==
                static_cast<int>(all.size()));
          // Products of one and of many tokens may sum in another order (session_test.cpp). A key
          // that sits between two codes may then take the other: a step of its group, in one of
          // some thousand numbers.
          const double allowed = policy.exact() ? 1e-3 : 0.1;
          CHECK(largest_difference(logits->row(row++), alone(model, all, policy)) < allowed);
        }
      }
    }
  }
}

TEST_CASE("a fork goes its own way, and an end gives its pages back") {
  const auto model = test::small_model();
  const KvPolicy policy{.recent = 4, .keys = {8}, .values = {8}};
  auto sequences = llama::Sequences::make(model, 64, policy, {.sequences = 3});
  REQUIRE(sequences);
  const auto prompt = varied_ids(20, 1);
  const int first = sequences->begin(prompt).value();
  const llama::Sequences::Next whole{first, prompt};
  REQUIRE(sequences->forward({&whole, 1}));
  const std::size_t one = sequences->pool().used_bytes();
  const int second = sequences->fork(first).value();
  CHECK(sequences->pool().used_bytes() == one);
  const std::vector<int> left = {3}, right = {99};
  const llama::Sequences::Next both[] = {{first, left}, {second, right}};
  const auto logits = sequences->forward(both);
  REQUIRE(logits);
  auto a = prompt, b = prompt;
  a.push_back(3), b.push_back(99);
  // As above; 8 bits move a number by 1/128 of a step of 4 bits.
  CHECK(largest_difference(logits->row(0), alone(model, a, policy)) < 0.01);
  CHECK(largest_difference(logits->row(1), alone(model, b, policy)) < 0.01);
  CHECK(largest_difference(logits->row(0), logits->row(1)) > 0.1);
  sequences->end(second);
  sequences->truncate(first, 0);
  CHECK(sequences->size(first) == 0);
  CHECK(sequences->pool().used_bytes() == 0);
  CHECK_THROWS_AS(sequences->end(second), ContractViolation);
  CHECK(sequences->begin().value() == second);
}

TEST_CASE("a request finds what an earlier one left, and a full pool lets go of it") {
  const auto model = test::small_model();
  const KvPolicy policy{.keys = {4}, .values = {4}};
  auto sequences = llama::Sequences::make(model, 64, policy, {.sequences = 3, .tokens = 64});
  REQUIRE(sequences);
  const auto prompt = varied_ids(32, 1);
  {
    const int s = sequences->begin(prompt).value();
    const llama::Sequences::Next next{s, prompt};
    REQUIRE(sequences->forward({&next, 1}));
    CHECK(sequences->keep(s, prompt));
    sequences->end(s);
  }
  const int again = sequences->begin(prompt).value();
  CHECK(sequences->size(again) == 31);  // the last token is computed: its logits are wanted
  const llama::Sequences::Next rest{again, std::span(prompt).subspan(31)};
  CHECK(sequences->forward({&rest, 1}));
  const int other = sequences->begin(varied_ids(3, 60)).value();
  CHECK(sequences->size(other) == 0);
  const auto long_one = varied_ids(64, 5);
  const llama::Sequences::Next much{other, long_one};
  CHECK(sequences->forward({&much, 1}));  // what was kept had to go
  const auto more = varied_ids(40, 5);
  const llama::Sequences::Next too_much{again, more};
  const auto full = sequences->forward({&too_much, 1});
  REQUIRE_FALSE(full);
  CHECK(full.error().code == Errc::cache_full);
  CHECK(sequences->size(again) == 32);
  CHECK_FALSE(llama::Sequences::make(model, model.config.max_positions + 1, policy, {}));
}

}  // namespace
