// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/detokenizer.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <string>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;

TEST_CASE("the alphabet of bytes is one to one and agrees with GPT-2's where it is known") {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    REQUIRE(alphabet_to_bytes(bytes_to_alphabet(one)) == one);
    REQUIRE(named_byte(byte_name(static_cast<unsigned char>(byte))) ==
            static_cast<unsigned char>(byte));
  }
  CHECK(bytes_to_alphabet(" \n\tA~") == "\u0120\u010a\u0109A~");
  CHECK(bytes_to_alphabet("\x7f\xa0\xad\xff") == "\u0121\u0142\u0143\u00ff");
  CHECK_FALSE(alphabet_to_bytes("a b"));
  CHECK_FALSE(alphabet_to_bytes("\u4f60"));
  CHECK(byte_name(10) == "<0x0A>");
  for (const char* text : {"<0x0>", "<0x0G>", "<0x0A", "0x0A>x", "<0x0A>>"})
    CHECK_FALSE(named_byte(text));
}

TEST_CASE("each rule of detokenizing") {
  Vocabulary vocabulary;
  REQUIRE(vocabulary.add(0, "\u2581the\u2581"));
  REQUIRE(vocabulary.add(2, "<0x0A>"));
  REQUIRE(vocabulary.add(3, "\u0120x"));
  const auto bytes = [&](int id, DetokenizerRules::Step step) {
    DetokenizerRules rules;
    rules.steps.push_back(std::move(step));
    return std::string(Detokenizer(vocabulary, rules).bytes(id));
  };
  CHECK(bytes(0, ReplaceDecoding{SplitPattern::literal("\u2581"), " "}) == " the ");
  CHECK(bytes(0, ByteLevelDecoding{}) == "\u2581the\u2581");
  CHECK(bytes(3, ByteLevelDecoding{}) == " x");
  CHECK(bytes(2, ByteFallbackDecoding{}) == "\n");
  CHECK(bytes(0, StripDecoding{"\u2581", 2}) == "the\u2581");
  for (const int id : {-1, 1, 4, 1000}) CHECK(bytes(id, ByteLevelDecoding{}).empty());
}

// Fuzz: whatever the cuts, what comes out is valid at every moment and equal to replacing at once.
TEST_CASE("a stream of bytes never emits a broken character and loses nothing") {
  Random random(9);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = tiny::awkward_text(random, random.below(8));
    if (round % 2 == 0) bytes += tiny::random_bytes(random, random.below(12));
    Utf8Stream stream;
    std::string out;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t count = 1 + random.below(5);
      const std::string emitted = stream.push(std::string_view(bytes).substr(at, count));
      REQUIRE(is_valid_utf8(emitted));
      out += emitted;
      at += count;
      // Only an unfinished character is held back, which would come out as one U+FFFD of 3 bytes.
      const std::string whole = replace_invalid_utf8(std::string_view(bytes).substr(0, at));
      REQUIRE((whole.starts_with(out) && whole.size() <= out.size() + 3));
    }
    out += stream.finish();
    REQUIRE(out == replace_invalid_utf8(bytes));
  }
}

}  // namespace
