// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do files spell bytes? Byte-level vocabularies write each byte as a visible character (GPT-2's
// alphabet: a byte that is printable in Latin-1 is itself, the others follow from U+0100 on);
// SentencePiece vocabularies name it, as in "<0x0A>".

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <bisup/text/unicode.hpp>

namespace bisup::text {

namespace detail {

struct ByteAlphabet {
  std::array<char32_t, 256> character = {};
  std::array<int, 0x144> byte = {};  // of each character, or -1

  constexpr ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? b : next++;
      byte[character[b]] = static_cast<int>(b);
    }
  }
};
inline constexpr ByteAlphabet byte_alphabet;

}  // namespace detail

[[nodiscard]] inline std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  for (const char c : bytes)
    append_utf8(out, detail::byte_alphabet.character[static_cast<unsigned char>(c)]);
  return out;
}

// Nothing if a character is not of the alphabet. Precondition: valid UTF-8.
[[nodiscard]] inline std::optional<std::string> alphabet_to_bytes(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text.data() + at);
    if (c.value >= detail::byte_alphabet.byte.size()) return std::nullopt;
    const int byte = detail::byte_alphabet.byte[c.value];
    if (byte < 0) return std::nullopt;
    out += static_cast<char>(byte);
    at += static_cast<std::size_t>(c.bytes);
  }
  return out;
}

// 10 for "<0x0A>"; nothing for other text.
[[nodiscard]] inline std::optional<unsigned char> named_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = 16 * value + digit;
  }
  return static_cast<unsigned char>(value);
}

[[nodiscard]] inline std::string byte_name(unsigned char byte) {
  static constexpr std::string_view digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + '>';
}

}  // namespace bisup::text
