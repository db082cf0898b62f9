// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/json.hpp>

#include <string>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using namespace bisup::io;

TEST_CASE("values come through as nlohmann's own parser reads them") {
  for (const char* text :
       {"{}", "[]", "null", "true", "-3", "18446744073709551615", "0.25", "\"a\\u00e9\"",
        R"({"a":[1,{"b":[[],{}]},null],"c":{"d":"e"},"f":false})", " [1, 2 , 3]  "}) {
    const auto parsed = parse_json(text, "file");
    REQUIRE(parsed);
    CHECK(*parsed == Json::parse(text));
  }
}

TEST_CASE("errors name the file, the part and the reason") {
  struct Case {
    std::string text, reason;
  };
  for (const auto& [text, reason] :
       {Case{"", "byte"}, Case{"{", "byte"}, Case{"[1,]", "byte"}, Case{"[1] x", "byte"},
        Case{"{\"a\":1,\"a\":1}", "'a'"}, Case{"{\"b\":{\"a\":1,\"c\":2,\"a\":3}}", "'a'"},
        Case{"[NaN]", "byte"}, Case{"[1e999]", "byte"}, Case{"[\"\xff\"]", "byte"},
        Case{std::string(1000, '['), "deep"}, Case{std::string(1 << 20, '['), "deep"}}) {
    const auto parsed = parse_json(text, "some.json", "the header");
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().code == Errc::malformed);
    CHECK(parsed.error().where == "some.json");
    CHECK(parsed.error().message.starts_with("the header "));
    CHECK(parsed.error().message.find(reason) != std::string::npos);
  }
}

TEST_CASE("nesting is read to its limit and no deeper") {
  const auto nested = [](std::size_t depth) {
    return parse_json(std::string(depth, '[') + std::string(depth, ']'), "file").has_value();
  };
  CHECK(nested(io::detail::JsonBuilder::deepest));
  CHECK_FALSE(nested(io::detail::JsonBuilder::deepest + 1));
}

TEST_CASE("quotes hold printable text of bounded length") {
  CHECK(in_quotes("name") == "'name'");
  CHECK(in_quotes("\xc3\xa9"
                  "a\nb\x1b[0m") ==
        "'?"
        "?a?b?[0m'");
  CHECK(in_quotes(std::string(5000, 'x')).size() == 105);  // two quotes, 100 letters, three dots
}

}  // namespace
