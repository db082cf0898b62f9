// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does text come into a Unicode normal form? utf8proc does it, but only where it may change
// something: most text already is in NFC, and finding that out is ten times cheaper than composing.

#include <utf8proc.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <bisup/text/unicode.hpp>

namespace bisup::text {

enum class NormalForm : std::uint8_t { nfc, nfd, nfkc, nfkd };

namespace detail {

inline void append_normalized(std::string& out, std::string_view text, NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |=
      form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* mapped = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                   static_cast<utf8proc_option_t>(options));
  if (length >= 0) {
    out.append(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length));
  } else {
    out.append(text);  // out of memory is the only way to fail on valid UTF-8
  }
  std::free(mapped);  // utf8proc allocates with malloc
}

// True if `c` stays as it is in NFC and nothing that follows a character can change what precedes
// it through `c`. False for some that would be fine: that only costs time.
inline bool compute_is_stable_in_nfc(char32_t c) {
  const auto* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  if (property->combining_class != 0 || is_mark(c)) return false;
  if (c >= 0x1160 && c <= 0x11FF) return false;  // vowels and finals of Hangul join a syllable
  if (c >= 0x16D40 && c <= 0x16D7F)
    return false;  // Kirat Rai vowels compose though they are letters
  if (property->decomp_seqindex == UINT16_MAX) return true;
  std::string one, normal;
  append_utf8(one, c);
  append_normalized(normal, one, NormalForm::nfc);
  return one == normal;
}

class NfcStability {
 public:
  [[nodiscard]] static const NfcStability& table() {
    static const NfcStability stability;
    return stability;
  }
  [[nodiscard]] bool operator[](char32_t c) const {
    return c < basic_.size() ? basic_[c] : compute_is_stable_in_nfc(c);
  }

 private:
  NfcStability() {
    for (std::size_t c = 0; c < basic_.size(); ++c) {
      const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
      basic_[c] = !surrogate && compute_is_stable_in_nfc(static_cast<char32_t>(c));
    }
  }
  std::array<bool, 0x10000> basic_;
};

}  // namespace detail

[[nodiscard]] inline std::string to_nfc(std::string_view text) {
  const auto& stable = detail::NfcStability::table();
  std::string out;
  out.reserve(text.size());
  std::size_t copied = 0;    // everything before it is in `out`
  std::size_t previous = 0;  // where the last stable character starts
  std::size_t at = 0;
  while (at < text.size()) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      previous = at++;
      continue;
    }
    const CodePoint c = decode_utf8(text.data() + at);
    if (stable[c.value]) {
      previous = at;
      at += static_cast<std::size_t>(c.bytes);
      continue;
    }
    // An unstable run composes with the character before it and with nothing else.
    while (at < text.size()) {
      const CodePoint next = decode_utf8(text.data() + at);
      if (stable[next.value]) break;
      at += static_cast<std::size_t>(next.bytes);
    }
    out.append(text.substr(copied, previous - copied));
    detail::append_normalized(out, text.substr(previous, at - previous), NormalForm::nfc);
    copied = previous = at;
  }
  out.append(text.substr(copied));
  return out;
}

// Precondition: `text` is valid UTF-8.
[[nodiscard]] inline std::string normalize(std::string_view text, NormalForm form) {
  if (form == NormalForm::nfc) return to_nfc(text);
  std::string out;
  detail::append_normalized(out, text, form);
  return out;
}

}  // namespace bisup::text
