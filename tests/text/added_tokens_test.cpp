// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/added_tokens.hpp>

#include <bisup_test.hpp>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace bisup::text;
using Stage = AddedTokens::Stage;

AddedToken token(int id, std::string content, bool special = false) {
  AddedToken made;
  made.id = id;
  made.content = std::move(content);
  made.special = special;
  return made;
}

AddedTokens added(std::vector<AddedToken> tokens) {
  return AddedTokens(std::move(tokens),
                     [](std::string& text) { return text.insert(0, "_"), true; });
}

// "text|[id]|text": ids in brackets.
std::string shown(const AddedTokens& tokens, std::string_view text,
                  std::vector<TrustedRange> trusted = {{}}, Stage stage = Stage::raw) {
  std::string out;
  REQUIRE(tokens.split(text, stage, trusted, [&](std::string_view piece, int id) {
    out += (out.empty() ? "" : "|") +
           (id == no_token ? std::string(piece) : "[" + std::to_string(id) + "]");
    return true;
  }));
  return out;
}

TEST_CASE("leftmost first, the longest of several") {
  const auto tokens = added({token(1, "<a>"), token(2, "<a><b>"), token(3, "<b>x")});
  CHECK(shown(tokens, "x<a>y") == "x|[1]|y");
  CHECK(shown(tokens, "<a><b>x") == "[2]|x");
  CHECK(shown(tokens, "<b>x<a>") == "[3]|[1]");
  CHECK(shown(tokens, "<a") == "<a");
  CHECK(shown(tokens, "").empty());
}

TEST_CASE("special tokens are found only where the text is trusted") {
  const auto tokens = added({token(1, "<s>", true), token(2, "<t>")});
  CHECK(shown(tokens, "a<s><t>") == "a|[1]|[2]");
  CHECK(shown(tokens, "a<s><t>", {}) == "a<s>|[2]");
  CHECK(shown(tokens, "<s><s><s>", {{3, 6}}) == "<s>|[1]|<s>");
  CHECK(shown(tokens, "<s><s>", {{1, 6}}) == "<s>|[1]");
  CHECK(shown(tokens, "<s><s>", {{0, 2}, {2, 6}}) == "<s>|[1]");  // not across a seam
}

// What a stranger begins to spell must not swallow the markup behind it.
TEST_CASE("a rejected match does not hide the token that begins inside it") {
  const auto tokens = added({token(1, "<x<s>", true), token(2, "<s>", true)});
  CHECK(shown(tokens, "<x<s>", {{2, 5}}) == "<x|[2]");
}

TEST_CASE("white space is taken, words are respected") {
  auto both = token(1, "<m>");
  both.left_strip = both.right_strip = true;
  CHECK(shown(added({both}), "a \u3000<m>\n b <m> <m>c") == "a|[1]|b|[1]|[1]|c");
  auto word = token(2, "cat");
  word.single_word = true;
  CHECK(shown(added({word}), "cat cats \u00e9cat cat") == "[2]| cats \u00e9cat |[2]");
}

TEST_CASE("normalized tokens are looked for as they are normalized, or as they are spelled") {
  auto normalized = token(1, "<n>", true);
  normalized.normalized = true;
  const auto tokens = added({normalized});
  CHECK(shown(tokens, "a<n>_<n>") == "a<n>_<n>");
  CHECK(shown(tokens, "a<n>_<n>", {{}}, Stage::normalized) == "a<n>|[1]");
  CHECK(shown(tokens, "a<n>", {{}}, Stage::literal) == "a|[1]");
}

}  // namespace
