// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/split_pattern.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <string>
#include <vector>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;

std::vector<std::string> pieces(const SplitPattern& split, std::string_view text) {
  std::vector<std::string> out;
  REQUIRE(split.for_each_piece(text, [&](std::string_view piece, bool is_match) {
    out.push_back((is_match ? "" : "-") + std::string(piece));
    return true;
  }));
  return out;
}

// The matcher against the expression that it stands for.
void check_against_regex(KnownPattern known, std::string_view expression) {
  const auto regex = Regex::compile(expression);
  REQUIRE(regex);
  Random random(3);
  for (int i = 0; i < 4000; ++i) {
    const std::string text = tiny::awkward_text(random, 1 + random.below(14));
    std::vector<std::string> expected;
    REQUIRE(regex->for_each_match(text, [&](std::size_t begin, std::size_t end) {
      expected.push_back(text.substr(begin, end - begin));
    }));
    REQUIRE(pieces(SplitPattern::known(known), text) == expected);
  }
}

TEST_CASE("matchers cut as their expressions do") {
  check_against_regex(KnownPattern::gpt2, pattern::gpt2);
  check_against_regex(KnownPattern::llama3, pattern::llama3);
  check_against_regex(KnownPattern::qwen2, pattern::qwen2);
  const std::string ascii_contractions =
      "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
  const auto ascii = [&](std::string_view expression) {
    return ascii_contractions + std::string(expression.substr(expression.find(")") + 1));
  };
  check_against_regex(KnownPattern::llama3_ascii, ascii(pattern::llama3));
  check_against_regex(KnownPattern::qwen2_ascii, ascii(pattern::qwen2));
}

TEST_CASE("known expressions are recognised by their text, others compiled") {
  CHECK(SplitPattern::regex(pattern::llama3)->kind() == SplitPattern::Kind::known);
  CHECK(SplitPattern::regex(pattern::qwen2)->kind() == SplitPattern::Kind::known);
  CHECK(SplitPattern::regex("\\s+")->kind() == SplitPattern::Kind::regex);
  CHECK_FALSE(SplitPattern::regex("("));
}

TEST_CASE("literals, numbers, punctuation and what lies between") {
  using Pieces = std::vector<std::string>;
  CHECK(pieces(SplitPattern::literal("ab"), "xababy") == Pieces{"-x", "ab", "ab", "-y"});
  CHECK(pieces(SplitPattern::literal(""), "xy") == Pieces{"-xy"});
  const auto numbers = SplitPattern::characters(SplitPattern::Kind::numbers);
  CHECK(pieces(numbers, "a12 \u0663b") == Pieces{"-a", "1", "2", "- ", "\u0663", "-b"});
  const auto punctuation = SplitPattern::characters(SplitPattern::Kind::punctuation);
  CHECK(pieces(punctuation, "a+b\u00bf\u20ac") == Pieces{"-a", "+", "-b", "\u00bf", "-\u20ac"});
  CHECK(pieces(*SplitPattern::regex("[0-9]+"), "a12b") == Pieces{"-a", "12", "-b"});
}

// Quadratic time would take minutes here.
TEST_CASE("a megabyte of white space is cut in linear time") {
  const std::string text(1 << 20, ' ');
  for (const auto known : {KnownPattern::gpt2, KnownPattern::llama3}) {
    CHECK(pieces(SplitPattern::known(known), text + "x").size() == 2);
  }
  CHECK(pieces(*SplitPattern::regex("\\s+(?!\\S)|\\s+|\\S+ "), text).size() == 1);
}

}  // namespace
