// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/normal_form.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <string>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;

TEST_CASE("the four normal forms of a few words") {
  CHECK(normalize("e\u0301", NormalForm::nfc) == "\u00e9");
  CHECK(normalize("\u00e9", NormalForm::nfd) == "e\u0301");
  CHECK(normalize("\ufb01\u00b2", NormalForm::nfkc) == "fi2");
  CHECK(normalize("\u212b", NormalForm::nfkd) == "A\u030a");
  CHECK(normalize("\u212b", NormalForm::nfc) == "\u00c5");
  CHECK(normalize("\u1100\u1161\u11a8", NormalForm::nfc) == "\uac01");
  CHECK(normalize("\uac00\u11a8", NormalForm::nfc) == "\uac01");
  CHECK(normalize("\uffff\u0301\ufffe", NormalForm::nfc) == "\uffff\u0301\ufffe");
  CHECK(normalize("", NormalForm::nfc).empty());
}

// The law behind looking only where something may change.
TEST_CASE("NFC in parts equals NFC of the whole") {
  Random random(2);
  for (int i = 0; i < 3000; ++i) {
    std::string text = tiny::awkward_text(random, random.below(12));
    for (std::uint32_t k = random.below(6); k > 0; --k) {
      static constexpr char32_t blocks[] = {
          0x300,  0x1100, 0x1160, 0x11A8, 0x900,   0x9A0,   0xAC00,  0x1E00,  0xC0,  0x41, 0xF900,
          0xFB1D, 0x1F00, 0x3041, 0x3090, 0x102B0, 0x11130, 0x1D150, 0x2F800, 0xBC0, 0xDC0};
      append_utf8(text, blocks[random.below(std::size(blocks))] + random.below(80));
    }
    std::string whole;
    bisup::text::detail::append_normalized(whole, text, NormalForm::nfc);
    REQUIRE(to_nfc(text) == whole);
    REQUIRE(to_nfc(whole) == whole);
  }
}

TEST_CASE("NFC of every character alone, behind a letter and before a mark") {
  for (char32_t c = 0x80; c < 0x20000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text = "a", whole;
    append_utf8(text, c);
    text += "\u0301";
    bisup::text::detail::append_normalized(whole, text, NormalForm::nfc);
    REQUIRE(to_nfc(text) == whole);
  }
}

}  // namespace
