// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/unicode.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <string>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;

TEST_CASE("every character survives encoding and decoding, seen from both ends") {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string bytes = "x";
    append_utf8(bytes, c);
    REQUIRE(is_valid_utf8(bytes));
    const CodePoint front = decode_utf8(bytes.data() + 1);
    const CodePoint back = decode_utf8_before(bytes.data() + bytes.size());
    REQUIRE((front.value == c && back.value == c));
    REQUIRE(static_cast<std::size_t>(front.bytes) + 1 == bytes.size());
  }
}

// What Python 3 gives for bytes.decode('utf-8', 'replace'); R is U+FFFD.
TEST_CASE("each maximal ill-formed subpart becomes one replacement character") {
  const auto shown = [](std::string_view bytes) {
    std::string out = replace_invalid_utf8(bytes);
    for (std::size_t at; (at = out.find(replacement_character)) != out.npos;)
      out.replace(at, 3, "R");
    return out;
  };
  CHECK(shown("plain") == "plain");
  CHECK(shown("\xff") == "R");
  CHECK(shown("a\x80\x80z") == "aRRz");
  CHECK(shown("\xc3") == "R");
  CHECK(shown("\xc3z") == "Rz");
  CHECK(shown("\xc0\xaf") == "RR");
  CHECK(shown("\xe4\xbdz") == "Rz");
  CHECK(shown("\xe4z") == "Rz");
  CHECK(shown("\xe0\x80\xaf") == "RRR");
  CHECK(shown("\xed\xa0\x80") == "RRR");
  CHECK(shown("\xf0\x9f\x98") == "R");
  CHECK(shown("\xf0\x9f\x98\xc3z") == "RRz");
  CHECK(shown("\xf0\x80\x80\x80") == "RRRR");
  CHECK(shown("\xf4\x90\x80\x80") == "RRRR");
  CHECK(shown("\xf8\x88\x80\x80\x80") == "RRRRR");
  CHECK(shown("12345678\xf1\x80\x80\xe1\x80\xc2z") == "12345678RRRz");
}

TEST_CASE("replacing gives valid text and leaves valid text alone") {
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string bytes = tiny::random_bytes(random, random.below(40));
    const std::string fixed = replace_invalid_utf8(bytes);
    REQUIRE(is_valid_utf8(fixed));
    REQUIRE(replace_invalid_utf8(fixed) == fixed);
    REQUIRE((is_valid_utf8(bytes) == (fixed == bytes)));
  }
}

TEST_CASE("classes of characters") {
  const auto& classes = CharClasses::table();
  for (const char32_t c : {U'a', U'Z', U'\u00e9', U'\u4f60', U'\U00020000', U'\u02b0', U'\u01c5'}) {
    CHECK(classes[c] == CharClass::letter);
  }
  for (const char32_t c : {U'0', U'\u0663', U'\u00b2', U'\u2167', U'\u00bd', U'\U0001d7d8'}) {
    CHECK(classes[c] == CharClass::number);
  }
  for (const char32_t c : {U' ', U'\t', U'\u0085', U'\u00a0', U'\u1680', U'\u2028', U'\u3000'}) {
    CHECK(classes[c] == CharClass::space);
  }
  for (const char32_t c :
       {U'.', U'_', U'\u0301', U'\u093f', U'\u200b', U'\ufeff', U'\u180e', U'\U0001f600'}) {
    CHECK(classes[c] == CharClass::other);
  }
  CHECK(is_word_character(U'_'));
  CHECK(is_word_character(U'\u0301'));
  CHECK_FALSE(is_word_character(U'-'));
}

}  // namespace
