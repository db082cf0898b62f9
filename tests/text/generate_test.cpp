// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/random_model.hpp>
#include <bisup/text/generate.hpp>
#include <bisup/text/tokenizer_json.hpp>
#include <bisup_test.hpp>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;

struct Fixture {
  text::Tokenizer tokenizer = text::Tokenizer::from_json_text(tiny::byte_level().dump(), "tiny").value();
  llama::Model model;
  Fixture() {
    llama::Config c;
    c.hidden_size = 64, c.intermediate_size = 64, c.layers = 1, c.heads = 1, c.kv_heads = 1;
    c.head_dim = 64, c.vocab_size = tokenizer.vocab_size(), c.max_positions = 64;
    model = random_model(c, Scheme{}).value();
  }
  text::Generation run(const text::GenerateOptions& options, int capacity = 64, std::string* shown = nullptr) {
    auto session = llama::Session::make(model, capacity, {});
    const std::vector<int> prompt = {1, 2, 3};
    auto result = text::generate(*session, prompt, tokenizer, options, [&](std::string_view piece) {
      if (shown != nullptr) *shown += piece;
      return true;
    });
    REQUIRE(result);
    return std::move(result).value();
  }
};

TEST_CASE("an answer is what one forward after another says, and ends at its length") {
  Fixture fixture;
  std::string shown;
  const auto result = fixture.run({.tokens = 8}, 64, &shown);
  REQUIRE(result.ids.size() == 8);
  REQUIRE(result.finish == text::Finish::length);
  REQUIRE(shown == fixture.tokenizer.decode(result.ids));
  std::vector<int> ids = {1, 2, 3};
  for (const int id : result.ids) {
    auto session = llama::Session::make(fixture.model, 64, {});
    const auto logits = session->next_logits(ids);
    REQUIRE(id == std::max_element(logits.begin(), logits.end()) - logits.begin());
    ids.push_back(id);
  }
}

TEST_CASE("a session that rolls goes on as one that begins with what was kept") {
  Fixture fixture;
  const auto result = fixture.run({.tokens = 40, .rolls = true, .sinks = 2}, 12);
  REQUIRE(result.ids.size() == 40);
  REQUIRE(fixture.run({.tokens = 40}, 12).ids.size() == 10);  // 9 that fit, and one to show
  // Every token is what a session says that has read what is still remembered.
  std::vector<int> known = {1, 2, 3};
  for (const int id : result.ids) {
    auto session = llama::Session::make(fixture.model, 64, {});
    const auto logits = session->next_logits(known);
    REQUIRE(id == std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (known.size() == 12) known.erase(known.begin() + 2, known.end() - 5);
    known.push_back(id);
  }
  auto session = llama::Session::make(fixture.model, 3, {});
  REQUIRE_THROWS_AS(session->roll(2), ContractViolation);
}

TEST_CASE("a prompt longer than the context is cut as a full session is, if it may roll") {
  Fixture fixture;
  const text::GenerateOptions options{.tokens = 4, .rolls = true, .sinks = 2};
  std::vector<int> history;
  for (int i = 0; i < 30; ++i) history.push_back(1 + i % 7);
  const auto answer = [&](const std::vector<int>& known, const std::vector<int>& prompt) {
    auto session = llama::Session::make(fixture.model, 12, {});
    REQUIRE(session);
    if (!known.empty()) (void)session->forward(known);
    auto result = text::generate(*session, prompt, fixture.tokenizer, options,
                                 [](std::string_view) { return true; });
    REQUIRE(result);
    return result->ids;
  };
  std::vector<int> kept(history.begin(), history.begin() + 2);
  kept.insert(kept.end(), history.end() - 5, history.end());
  const auto expected = answer({}, kept);
  CHECK(expected.size() == 4);
  CHECK(answer({}, history) == expected);
  // The session's own tokens are the first of the history.
  CHECK(answer({history.begin(), history.begin() + 9}, {history.begin() + 9, history.end()}) ==
        expected);
  auto session = llama::Session::make(fixture.model, 12, {});
  const auto emit = [](std::string_view) { return true; };
  const auto full = text::generate(*session, history, fixture.tokenizer, {.tokens = 4}, emit);
  REQUIRE_FALSE(full);
  CHECK(full.error().code == Errc::cache_full);
  const auto narrow =
      text::generate(*session, history, fixture.tokenizer, {.rolls = true, .sinks = 11}, emit);
  REQUIRE_FALSE(narrow);
  CHECK(narrow.error().message.find("too short to roll") != std::string::npos);
}

TEST_CASE("an answer ends at an end token, a stop string, a full cache or the user's wish") {
  Fixture fixture;
  const auto free = fixture.run({.tokens = 8});
  const auto ended = fixture.run({.tokens = 8, .eos = {free.ids[3]}});
  REQUIRE(ended.finish == text::Finish::eos);
  const auto first = std::find(free.ids.begin(), free.ids.end(), free.ids[3]);
  REQUIRE(ended.ids == std::vector<int>(free.ids.begin(), first));

  // Three prompt tokens and two answers fill five places; a third is shown without being stored.
  const auto full = fixture.run({.tokens = 8}, 5);
  REQUIRE(full.ids.size() == 3);
  REQUIRE(full.finish == text::Finish::length);

  std::string whole, shown;
  (void)fixture.run({.tokens = 8}, 64, &whole);
  REQUIRE(whole.size() >= 2);
  const auto stopped = fixture.run({.tokens = 8, .stops = {whole.substr(1, 1)}}, 64, &shown);
  REQUIRE(stopped.finish == text::Finish::stop);
  REQUIRE(shown == whole.substr(0, whole.find(whole[1])));

  auto session = llama::Session::make(fixture.model, 64, {});
  const std::vector<int> prompt = {1};
  const auto cut = text::generate(*session, prompt, fixture.tokenizer, {.tokens = 8},
                                  [](std::string_view) { return false; });
  REQUIRE(cut->finish == text::Finish::interrupted);
  REQUIRE(cut->ids.size() == 1);
}

TEST_CASE("a prompt that does not fit is the world's error") {
  Fixture fixture;
  auto session = llama::Session::make(fixture.model, 2, {});
  const std::vector<int> prompt = {1, 2, 3};
  const auto result =
      text::generate(*session, prompt, fixture.tokenizer, {}, [](std::string_view) { return true; });
  REQUIRE_FALSE(result);
  REQUIRE(result.error().code == Errc::cache_full);
  const std::vector<int> foreign = {1, fixture.model.config.vocab_size};
  const auto other =
      text::generate(*session, foreign, fixture.tokenizer, {}, [](std::string_view) { return true; });
  REQUIRE_FALSE(other);
  REQUIRE(other.error().code == Errc::out_of_range);
}

TEST_CASE("logits that are no numbers are an error, greedy or drawn, not an answer") {
  Fixture fixture;
  fixture.model.final_norm[5] = std::numeric_limits<float>::quiet_NaN();
  for (const float temperature : {0.0f, 1.0f}) {
    auto session = llama::Session::make(fixture.model, 64, {});
    const std::vector<int> prompt = {1, 2, 3};
    const auto result =
        text::generate(*session, prompt, fixture.tokenizer, {.sampling = {.temperature = temperature}},
                       [](std::string_view) { return true; });
    REQUIRE_FALSE(result);
    REQUIRE(result.error().code == Errc::not_finite);
  }
}

}  // namespace
