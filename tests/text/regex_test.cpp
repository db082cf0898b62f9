// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/regex.hpp>

#include <bisup_test.hpp>
#include <string>
#include <vector>

namespace {

using namespace bisup;
using namespace bisup::text;

std::vector<std::string> matches(std::string_view expression, std::string_view text) {
  const auto regex = Regex::compile(expression);
  REQUIRE(regex);
  std::vector<std::string> out;
  REQUIRE(regex->for_each_match(text, [&](std::size_t begin, std::size_t end) {
    out.emplace_back(text.substr(begin, end - begin));
  }));
  return out;
}

TEST_CASE("escapes mean what Oniguruma means by them") {
  using Strings = std::vector<std::string>;
  CHECK(matches("\\s", "a\u0085\u00a0b") == Strings{"\u0085", "\u00a0"});
  CHECK(matches("\\s", "a\u180e\u200b").empty());  // format characters, though PCRE2's \s holds one
  CHECK(matches("[^\\s]+", "a\u0085b") == Strings{"a", "b"});
  CHECK(matches("[\\S]+", "a\u0085b") == Strings{"a", "b"});
  CHECK(matches("\\S+", "a\u0085b") == Strings{"a", "b"});
  CHECK(matches("\\w+", "e\u0301_1\u2167-x") == Strings{"e\u0301_1\u2167", "x"});
  CHECK(matches("\\W", "a-b") == Strings{"-"});
  CHECK(matches("\\h+", "xyzfACE09") == Strings{"fACE09"});
  CHECK(matches("^b", "a\nb") == Strings{"b"});
  CHECK(matches("[]a]+", "]ab") == Strings{"]a"});
  CHECK(matches("(?i:'s)", "'\u017f'S") == Strings{"'\u017f", "'S"});
  CHECK(matches("x*", "ax") == Strings{"", "x"});
}

TEST_CASE("what would be matched differently is refused") {
  for (const char* expression :
       {"a{1,3}+", "[a[b]]", "[a&&b]", "[\\W]", "\\R", "\\K", "(", "[a", "\\C", "a\\"}) {
    INFO(expression);
    const auto regex = Regex::compile(expression);
    REQUIRE_FALSE(regex);
    CHECK(regex.error().code == Errc::unsupported);
  }
}

TEST_CASE("a pattern that backtracks without end gives up instead of hanging") {
  const auto regex = Regex::compile("(a|aa)+$|b");
  REQUIRE(regex);
  CHECK_FALSE(regex->for_each_match(std::string(80, 'a') + "c", [](std::size_t, std::size_t) {}));
}

}  // namespace
