// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do bytes become characters? UTF-8 decoding, U+FFFD for what is not UTF-8, and the four
// classes (letter, number, space, other) by which tokenizers split text. Normal forms:
// normal_form.hpp.

#include <utf8proc.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace bisup::text {

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8State : std::uint8_t {
  valid,
  invalid,     // these bytes begin no character: a maximal subpart, to be replaced by one U+FFFD
  incomplete,  // the text ends inside a character that was well formed so far
};

struct Utf8Unit {
  Utf8State state;
  int bytes;
};

// The character, or the maximal subpart of an ill-formed one, at the front of `text` (not empty).
// The ranges of second bytes are table 3-7 of the Unicode standard.
[[nodiscard]] inline Utf8Unit scan_utf8(std::string_view text) noexcept {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Utf8State::valid, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8State::invalid, 1};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;  // no surrogates
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (int i = 1; i < length; ++i) {
    if (static_cast<std::size_t>(i) == text.size()) return {Utf8State::incomplete, i};
    const unsigned next = byte(static_cast<std::size_t>(i));
    if (next < low || next > high) return {Utf8State::invalid, i};
    low = 0x80, high = 0xBF;
  }
  return {Utf8State::valid, length};
}

// The length of the longest prefix that is well-formed UTF-8.
[[nodiscard]] inline std::size_t valid_utf8_prefix(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight = 0;
    while (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) != 0) break;
      at += 8;
    }
    if (at == text.size()) break;
    const auto unit = scan_utf8(text.substr(at));
    if (unit.state != Utf8State::valid) break;
    at += static_cast<std::size_t>(unit.bytes);
  }
  return at;
}

[[nodiscard]] inline bool is_valid_utf8(std::string_view text) noexcept {
  return valid_utf8_prefix(text) == text.size();
}

// Every maximal ill-formed subpart becomes one U+FFFD, as bytes.decode('utf-8', 'replace') has it.
[[nodiscard]] inline std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  while (true) {
    const std::size_t valid = valid_utf8_prefix(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) return out;
    out.append(replacement_character);
    text.remove_prefix(static_cast<std::size_t>(scan_utf8(text).bytes));
  }
}

struct CodePoint {
  char32_t value;
  int bytes;
};

// The character at `at`. Precondition: the text there is valid UTF-8 and not at its end.
[[nodiscard]] inline CodePoint decode_utf8(const char* at) noexcept {
  const auto byte = [at](int i) {
    return static_cast<char32_t>(static_cast<unsigned char>(at[i]));
  };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0xF) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 7) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

// The character that ends just before `at`, which is not the beginning of the valid text.
[[nodiscard]] inline CodePoint decode_utf8_before(const char* at) noexcept {
  do --at;
  while ((static_cast<unsigned char>(*at) & 0xC0) == 0x80);
  return decode_utf8(at);
}

inline void append_utf8(std::string& out, char32_t c) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) return put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  if (c < 0x10000) {
    return put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
  put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F));
  put(0x80 | (c & 0x3F));
}

[[nodiscard]] inline bool is_white_space(char32_t c) noexcept {  // the property White_Space
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

[[nodiscard]] inline utf8proc_category_t category(char32_t c) noexcept {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

[[nodiscard]] inline bool is_mark(char32_t c) noexcept {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

enum class CharClass : std::uint8_t { other, letter, number, space };  // the rest, \p{L}, \p{N}, \s

[[nodiscard]] inline CharClass compute_class(char32_t c) noexcept {
  if (is_white_space(c)) return CharClass::space;
  const auto kind = category(c);
  if (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO) return CharClass::letter;
  if (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO) return CharClass::number;
  return CharClass::other;
}

// What regular expressions call \w: letters, marks, numbers that are digits or letters, connectors.
[[nodiscard]] inline bool is_word_character(char32_t c) noexcept {
  const auto kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) ||
         kind == UTF8PROC_CATEGORY_PC;
}

// The class of each character of the basic plane, looked up instead of computed: splitting asks for
// the class of every character of a text.
class CharClasses {
 public:
  [[nodiscard]] static const CharClasses& table() {
    static const CharClasses classes;
    return classes;
  }
  [[nodiscard]] CharClass operator[](char32_t c) const noexcept {
    return c < basic_.size() ? basic_[c] : compute_class(c);
  }

 private:
  CharClasses() {
    for (std::size_t c = 0; c < basic_.size(); ++c)
      basic_[c] = compute_class(static_cast<char32_t>(c));
  }
  std::array<CharClass, 0x10000> basic_;
};

}  // namespace bisup::text
