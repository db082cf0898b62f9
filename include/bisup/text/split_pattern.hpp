// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a pre-tokenizer look for? A SplitPattern is a known regular expression (recognised by
// its text and matched by hand: regular expression engines would be most of the time), any other
// one, a literal string, or a class of characters.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/text/regex.hpp>
#include <bisup/text/unicode.hpp>

namespace bisup::text {

// The expressions that have a matcher here. The `ascii` ones fold only a-z in contractions, as
// llama.cpp writes them; (?i:'s) of the others also matches U+017F, the long s.
enum class KnownPattern : std::uint8_t { gpt2, llama3, qwen2, llama3_ascii, qwen2_ascii };

namespace pattern {

inline constexpr std::string_view gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

}  // namespace pattern

namespace detail {

// Finds the end of the piece that begins at a place in valid UTF-8. Each function is one
// alternative of the expressions above; together they match everything, so pieces tile the text.
class PieceMatcher {
 public:
  explicit PieceMatcher(const char* end) : end_(end), classes_(CharClasses::table()) {}

  template <KnownPattern P>
  [[nodiscard]] const char* next(const char* at) const {
    if constexpr (P == KnownPattern::gpt2) {
      return next_gpt2(at);
    } else {
      constexpr int digits = P == KnownPattern::llama3 || P == KnownPattern::llama3_ascii ? 3 : 1;
      constexpr bool long_s = P == KnownPattern::llama3 || P == KnownPattern::qwen2;
      return next_llama(at, digits, long_s);
    }
  }

 private:
  struct Character {
    CharClass kind;
    int bytes;
  };

  [[nodiscard]] Character look(const char* at) const {
    const auto byte = static_cast<unsigned char>(*at);
    if (byte < 0x80) return {classes_[byte], 1};
    const CodePoint c = decode_utf8(at);
    return {classes_[c.value], c.bytes};
  }
  [[nodiscard]] const char* skip(const char* at, CharClass kind) const {
    while (at < end_) {
      const Character c = look(at);
      if (c.kind != kind) break;
      at += c.bytes;
    }
    return at;
  }
  [[nodiscard]] static bool is_newline(char c) { return c == '\r' || c == '\n'; }
  [[nodiscard]] const char* skip_newlines(const char* at) const {
    while (at < end_ && is_newline(*at)) ++at;
    return at;
  }

  // 's 't 're 've 'm 'll 'd, or null. `fold` is 0x20 to ignore the case of ASCII letters.
  [[nodiscard]] const char* contraction(const char* at, int fold, bool long_s) const {
    if (*at != '\'' || end_ - at < 2) return nullptr;
    const int a = at[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if (end_ - at < 3) return nullptr;
    const int b = at[2] | fold;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
    if (long_s && at[1] == '\xC5' && at[2] == '\xBF') return at + 3;
    return nullptr;
  }

  // White space: all of it if the text ends behind it, else all but its last character, which goes
  // to what follows; `newlines`: up to the last newline in it, if there is one.
  [[nodiscard]] const char* spaces(const char* at, bool newlines) const {
    const char* const begin = at;
    const char* last = at;
    const char* behind_newline = nullptr;
    while (at < end_) {
      const Character c = look(at);
      if (c.kind != CharClass::space) break;
      if (newlines && is_newline(*at)) behind_newline = at + 1;
      last = at;
      at += c.bytes;
    }
    if (behind_newline != nullptr) return behind_newline;
    return at == end_ || last == begin ? at : last;
  }

  [[nodiscard]] const char* next_gpt2(const char* at) const {
    if (const char* end = contraction(at, 0, false)) return end;
    const Character c = look(at);
    if (c.kind != CharClass::space) return skip(at + c.bytes, c.kind);
    if (*at == ' ' && at + 1 < end_) {
      const Character behind = look(at + 1);
      if (behind.kind != CharClass::space) return skip(at + 1 + behind.bytes, behind.kind);
    }
    return spaces(at, false);
  }

  [[nodiscard]] const char* next_llama(const char* at, int digits, bool long_s) const {
    if (const char* end = contraction(at, 0x20, long_s)) return end;
    const Character c = look(at);
    const char* behind = at + c.bytes;
    if (c.kind == CharClass::letter) return skip(behind, CharClass::letter);
    if (c.kind == CharClass::number) {
      for (int i = 1; i < digits && behind < end_; ++i) {
        const Character digit = look(behind);
        if (digit.kind != CharClass::number) break;
        behind += digit.bytes;
      }
      return behind;
    }
    if (behind < end_) {
      const Character follower = look(behind);
      if (follower.kind == CharClass::letter && !is_newline(*at)) {
        return skip(behind + follower.bytes, CharClass::letter);
      }
      if (*at == ' ' && follower.kind == CharClass::other) {
        return skip_newlines(skip(behind + follower.bytes, CharClass::other));
      }
    }
    if (c.kind == CharClass::other) return skip_newlines(skip(behind, CharClass::other));
    return spaces(at, true);
  }

  const char* end_;
  const CharClasses& classes_;
};

}  // namespace detail

class SplitPattern {
 public:
  enum class Kind : std::uint8_t { known, regex, literal, numbers, punctuation, white_space };

  [[nodiscard]] static SplitPattern known(KnownPattern which) {
    SplitPattern made(Kind::known);
    made.known_ = which;
    return made;
  }
  [[nodiscard]] static SplitPattern literal(std::string text) {
    SplitPattern made(Kind::literal);
    made.literal_ = std::move(text);
    return made;
  }
  // One character of the class: \p{N}, what Unicode or ASCII calls punctuation, White_Space.
  [[nodiscard]] static SplitPattern characters(Kind kind) { return SplitPattern(kind); }
  [[nodiscard]] static Result<SplitPattern> regex(std::string_view expression) {
    if (expression == pattern::gpt2) return known(KnownPattern::gpt2);
    if (expression == pattern::llama3) return known(KnownPattern::llama3);
    if (expression == pattern::qwen2) return known(KnownPattern::qwen2);
    auto compiled = Regex::compile(expression);
    if (!compiled) return compiled.error();
    SplitPattern made(Kind::regex);
    made.regex_ = std::move(compiled).value();
    return made;
  }

  [[nodiscard]] Kind kind() const noexcept { return kind_; }

  // Cuts valid UTF-8 into matches and what lies between them: visit(piece, is_match), in order.
  // False: visit returned false, or a regular expression gave up (see Regex).
  template <class Visit>
  [[nodiscard]] bool for_each_piece(std::string_view text, Visit&& visit) const {
    switch (kind_) {
      case Kind::known: return visit_known(text, visit);
      case Kind::regex: return visit_regex(text, visit);
      case Kind::literal: return visit_literal(text, visit);
      case Kind::numbers:
      case Kind::punctuation:
      case Kind::white_space: return visit_characters(text, visit);
    }
    return false;
  }

 private:
  explicit SplitPattern(Kind kind) : kind_(kind) {}

  template <KnownPattern P, class Visit>
  static bool tile(std::string_view text, Visit& visit) {
    const char* const end = text.data() + text.size();
    const detail::PieceMatcher matcher(end);
    for (const char* at = text.data(); at < end;) {
      const char* const behind = matcher.next<P>(at);
      if (!visit(std::string_view(at, static_cast<std::size_t>(behind - at)), true)) return false;
      at = behind;
    }
    return true;
  }
  template <class Visit>
  bool visit_known(std::string_view text, Visit& visit) const {
    switch (known_) {
      case KnownPattern::gpt2: return tile<KnownPattern::gpt2>(text, visit);
      case KnownPattern::llama3: return tile<KnownPattern::llama3>(text, visit);
      case KnownPattern::qwen2: return tile<KnownPattern::qwen2>(text, visit);
      case KnownPattern::llama3_ascii: return tile<KnownPattern::llama3_ascii>(text, visit);
      case KnownPattern::qwen2_ascii: return tile<KnownPattern::qwen2_ascii>(text, visit);
    }
    return false;
  }
  template <class Visit>
  bool visit_regex(std::string_view text, Visit& visit) const {
    std::size_t done = 0;
    bool going = true;
    const bool searched = regex_->for_each_match(text, [&](std::size_t begin, std::size_t end) {
      if (going && begin > done) going = visit(text.substr(done, begin - done), false);
      if (going && end > begin) going = visit(text.substr(begin, end - begin), true);
      done = end;
    });
    return searched && going && (done == text.size() || visit(text.substr(done), false));
  }
  template <class Visit>
  bool visit_literal(std::string_view text, Visit& visit) const {
    std::size_t done = 0;
    for (std::size_t at; !literal_.empty() && (at = text.find(literal_, done)) != text.npos;) {
      if (at > done && !visit(text.substr(done, at - done), false)) return false;
      if (!visit(text.substr(at, literal_.size()), true)) return false;
      done = at + literal_.size();
    }
    return done == text.size() || visit(text.substr(done), false);
  }
  template <class Visit>
  bool visit_characters(std::string_view text, Visit& visit) const {
    const CharClasses& classes = CharClasses::table();
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint c = decode_utf8(text.data() + at);
      const auto bytes = static_cast<std::size_t>(c.bytes);
      if (matches(c.value, classes)) {
        if (at > done && !visit(text.substr(done, at - done), false)) return false;
        if (!visit(text.substr(at, bytes), true)) return false;
        done = at + bytes;
      }
      at += bytes;
    }
    return done == text.size() || visit(text.substr(done), false);
  }
  [[nodiscard]] bool matches(char32_t c, const CharClasses& classes) const {
    if (kind_ == Kind::numbers) return classes[c] == CharClass::number;
    if (kind_ == Kind::white_space) return classes[c] == CharClass::space;
    if (c < 0x80) return c > ' ' && c < 0x7F && classes[c] == CharClass::other;
    const auto group = category(c);
    return group >= UTF8PROC_CATEGORY_PC && group <= UTF8PROC_CATEGORY_PO;
  }

  Kind kind_;
  KnownPattern known_ = KnownPattern::gpt2;
  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace bisup::text
