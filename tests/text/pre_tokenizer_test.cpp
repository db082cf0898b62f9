// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/pre_tokenizer.hpp>

#include <bisup_test.hpp>
#include <string>
#include <vector>

namespace {

using namespace bisup::text;
using Words = std::vector<std::string>;

Words words(const PreTokenizer& pre_tokenizer, std::string_view text, bool at_start = true) {
  Words out;
  REQUIRE(
      pre_tokenizer.split(text, at_start, [&](std::string_view word) { out.emplace_back(word); }));
  return out;
}

Words split(std::string_view text, SplitBehavior behavior, bool invert = false) {
  return words(PreTokenizer({SplitStep{SplitPattern::literal("-"), behavior, invert}}), text);
}

// The example of the tokenizers library's documentation of its behaviors.
TEST_CASE("the five behaviors of a split") {
  const std::string text = "the-final--countdown";
  CHECK(split(text, SplitBehavior::removed) == Words{"the", "final", "countdown"});
  CHECK(split(text, SplitBehavior::isolated) == Words{"the", "-", "final", "-", "-", "countdown"});
  CHECK(split(text, SplitBehavior::merged_with_previous) ==
        Words{"the-", "final-", "-", "countdown"});
  CHECK(split(text, SplitBehavior::merged_with_next) == Words{"the", "-final", "-", "-countdown"});
  CHECK(split(text, SplitBehavior::contiguous) == Words{"the", "-", "final", "--", "countdown"});
}

TEST_CASE("matches at the ends, and inverted") {
  CHECK(split("-a-", SplitBehavior::merged_with_previous) == Words{"-", "a-"});
  CHECK(split("-a-", SplitBehavior::merged_with_next) == Words{"-a", "-"});
  CHECK(split("--", SplitBehavior::contiguous) == Words{"--"});
  CHECK(split("a-b", SplitBehavior::removed, true) == Words{"-"});
  CHECK(split("", SplitBehavior::isolated).empty());
}

TEST_CASE("steps apply in order, each to what the one before left") {
  const PreTokenizer digits({SplitStep{SplitPattern::characters(SplitPattern::Kind::numbers)},
                             SplitStep{SplitPattern::known(KnownPattern::gpt2)}});
  CHECK(words(digits, "year 2024!") == Words{"year", " ", "2", "0", "2", "4", "!"});
  CHECK(words(PreTokenizer(), "all of it") == Words{"all of it"});
}

TEST_CASE("metaspace: every text, only the first, or none begins with the mark") {
  const std::string mark = "\u2581";
  MetaspaceStep step;
  CHECK(words(PreTokenizer({step}), "a b  c") == Words{mark + "a", mark + "b", mark, mark + "c"});
  CHECK(words(PreTokenizer({step}), " a") == Words{mark + "a"});
  step.split = false;
  CHECK(words(PreTokenizer({step}), "a b") == Words{mark + "a" + mark + "b"});
  step.prepend = MetaspaceStep::Prepend::first;
  CHECK(words(PreTokenizer({step}), "a", true) == Words{mark + "a"});
  CHECK(words(PreTokenizer({step}), "a", false) == Words{"a"});
  step.prepend = MetaspaceStep::Prepend::never;
  CHECK(words(PreTokenizer({step}), "a b") == Words{"a" + mark + "b"});
}

TEST_CASE("a space in front unless there is one") {
  CHECK(words(PreTokenizer({PrefixSpaceStep{}}), "a") == Words{" a"});
  CHECK(words(PreTokenizer({PrefixSpaceStep{}}), " a") == Words{" a"});
}

}  // namespace
