// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/continuation.hpp>
#include <bisup/text/tokenizer_json.hpp>
#include <bisup_test.hpp>
#include <limits>
#include <string>
#include <vector>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;

TEST_CASE("stop strings are found wherever the pieces break, and never shown") {
  const std::string whole = "one END two ENDE";
  for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
    text::StopStrings stops({"END", "xyz"});
    std::string shown = stops.push(whole.substr(0, cut));
    if (!stops.found()) shown += stops.push(whole.substr(cut));
    CAPTURE(cut);
    REQUIRE(stops.found());
    REQUIRE(shown == "one ");
  }
}

TEST_CASE("only what may become a stop string is held back") {
  text::StopStrings stops({"stop", "", "top it"});
  REQUIRE(stops.push("a s") == "a ");
  REQUIRE(stops.push("t") == "");
  REQUIRE(stops.push("op") == "");  // "stop" ends before "top it" could
  REQUIRE(stops.found());
  text::StopStrings others({"stop"});
  REQUIRE(others.push("sto") == "");
  REQUIRE(others.push("ne") == "stone");
  REQUIRE(others.push("st") == "");
  REQUIRE(others.finish() == "st");
  REQUIRE_FALSE(others.found());
}

// Logits that leave no choice.
std::vector<float> only(int id, int vocabulary) {
  std::vector<float> logits(static_cast<std::size_t>(vocabulary), 0.0f);
  logits[static_cast<std::size_t>(id)] = 50;
  return logits;
}

struct Told {
  text::Tokenizer tokenizer =
      text::Tokenizer::from_json_text(tiny::byte_level().dump(), "tiny").value();
  std::vector<int> prompt = {1, 2};
  std::string shown;
  text::Emit emit = [this](std::string_view piece) {
    shown += piece;
    return true;
  };
  // Lets it say the tokens of `said`; how many of them were asked for.
  int tell(text::Continuation& answer, const std::vector<int>& said) {
    for (std::size_t i = 0; i < said.size(); ++i) {
      const auto more = answer.read(only(said[i], tokenizer.vocab_size()), emit);
      REQUIRE(more);
      if (!*more) return static_cast<int>(i) + 1;
      CHECK(answer.last() == said[i]);
    }
    return static_cast<int>(said.size()) + 1;
  }
};

TEST_CASE("an answer is told token by token, and knows what was said") {
  Told told;
  const std::vector<int> said = told.tokenizer.encode("the cat sat").value();
  text::Continuation answer(told.tokenizer, {}, told.prompt, static_cast<int>(said.size()));
  CHECK(answer.last() == 2);
  CHECK(told.tell(answer, said) == static_cast<int>(said.size()));
  CHECK(told.shown == "the cat sat");
  std::vector<int> all = told.prompt;
  all.insert(all.end(), said.begin(), said.end());
  CHECK(std::vector<int>(answer.said().begin(), answer.said().end()) == all);
  const auto result = answer.take();
  CHECK(result.ids == said);
  CHECK(result.finish == text::Finish::length);
}

TEST_CASE("an answer ends at its end token, a stop string, a listener that left or from outside") {
  Told told;
  const std::vector<int> said = told.tokenizer.encode("the cat sat on the mat").value();
  {
    text::Continuation answer(told.tokenizer, {.eos = {said[2]}}, told.prompt, 100);
    CHECK(told.tell(answer, said) == 3);
    const auto result = answer.take();
    CHECK(result.finish == text::Finish::eos);
    CHECK(result.ids == std::vector<int>(said.begin(), said.begin() + 2));
  }
  {
    told.shown.clear();
    text::Continuation answer(told.tokenizer, {.stops = {" sat"}}, told.prompt, 100);
    CHECK(told.tell(answer, said) < static_cast<int>(said.size()));
    CHECK(told.shown == "the cat");
    CHECK(answer.take().finish == text::Finish::stop);
  }
  {
    text::Continuation answer(told.tokenizer, {}, told.prompt, 100);
    const auto more = answer.read(only(said[0], told.tokenizer.vocab_size()),
                                  [](std::string_view) { return false; });
    REQUIRE(more);
    CHECK_FALSE(*more);
    CHECK(answer.take().finish == text::Finish::interrupted);
  }
  {
    text::Continuation answer(told.tokenizer, {}, told.prompt, 100);
    CHECK(told.tell(answer, {said[0]}) == 2);
    answer.interrupt();
    CHECK_THROWS_AS((void)answer.read(only(said[1], told.tokenizer.vocab_size()), told.emit),
                    ContractViolation);
    const auto result = answer.take();
    CHECK(result.finish == text::Finish::interrupted);
    CHECK(result.ids == std::vector<int>{said[0]});
  }
}

TEST_CASE("what was held back for a stop string that never came is shown at the end") {
  Told told;
  const std::vector<int> said = told.tokenizer.encode("the cat sat").value();
  text::Continuation answer(told.tokenizer, {.stops = {"sat down"}}, told.prompt,
                            static_cast<int>(said.size()));
  (void)told.tell(answer, said);
  CHECK(told.shown == "the cat sat");
  CHECK(answer.take().finish == text::Finish::length);
}

TEST_CASE("an answer of no token is a mistake, and logits that are no numbers an error") {
  Told told;
  CHECK_THROWS_AS(text::Continuation(told.tokenizer, {}, told.prompt, 0), ContractViolation);
  text::Continuation answer(told.tokenizer, {}, told.prompt, 1);
  std::vector<float> logits = only(3, told.tokenizer.vocab_size());
  logits[7] = -std::numeric_limits<float>::infinity();
  const auto more = answer.read(logits, told.emit);
  REQUIRE_FALSE(more);
  CHECK(more.error().code == Errc::not_finite);
}

}  // namespace
