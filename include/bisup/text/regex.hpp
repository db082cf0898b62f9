// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are the patterns of a tokenizer.json searched? They are written for Oniguruma; PCRE2 runs
// them after the few escapes that mean something else there are spelled out. Known patterns never
// come here: split_pattern.hpp has matchers for them.

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>

namespace bisup::text {

namespace detail {

// Oniguruma to PCRE2: \s is the property White_Space there (in PCRE2 it also holds U+180E, and
// without UCP lacks U+0085), \w holds every alphabetic character, \h means hex digit. What cannot
// be said in PCRE2 is refused rather than matched differently.
inline Result<std::string> translate_pattern(std::string_view pattern) {
  const auto refuse = [pattern](const std::string& what) {
    return Error{Errc::unsupported, "the pattern " + io::in_quotes(pattern) + " has " + what};
  };
  static constexpr std::string_view word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      ++i;
      if (next == 's') {
        out += "\\p{White_Space}";
      } else if (next == 'S') {
        out += "\\P{White_Space}";
      } else if (next == 'w') {
        out.append(in_class ? "" : "[").append(word).append(in_class ? "" : "]");
      } else if (next == 'W') {
        if (in_class) return refuse("\\W inside a set");
        out.append("[^").append(word).append("]");
      } else if (next == 'h') {
        out += in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
      } else if (next == 'H' || next == 'R' || next == 'X' || next == 'K') {
        return refuse(std::string("\\") + next);
      } else {
        // As it is, with the braces of \p{L} or \x{85}, which are no count.
        const bool braces = i + 1 < pattern.size() && pattern[i + 1] == '{';
        const std::size_t end = braces ? pattern.find('}', i) : i;
        out += pattern.substr(i - 1, end == pattern.npos ? 2 : end - i + 2);
        if (end != pattern.npos) i = end;
      }
    } else if (in_class) {
      if (c == '[' && next != ':') return refuse("a set inside a set");
      if (c == '&' && next == '&') return refuse("an intersection of sets");
      if (c == ']') in_class = false;
      if (c == '[') {  // a POSIX name such as [:alpha:]
        const std::size_t end = pattern.find(":]", i + 2);
        if (end == std::string_view::npos) return refuse("a set without end");
        out.append(pattern.substr(i, end + 2 - i));
        i = end + 1;
      } else {
        out += c;
      }
    } else {
      if (c == '}' && next == '+')
        return refuse("a '+' behind a count, which engines read differently");
      out += c;
      if (c == '[') {
        in_class = true;
        if (next == '^') out += next, ++i;
        if (i + 1 < pattern.size() && pattern[i + 1] == ']') out += "\\]", ++i;
      }
    }
  }
  return out;
}

}  // namespace detail

class Regex {
 public:
  [[nodiscard]] static Result<Regex> compile(std::string_view pattern) {
    const auto translated = detail::translate_pattern(pattern);
    if (!translated) return translated.error();
    int error = 0;
    PCRE2_SIZE offset = 0;
    const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
    if (context == nullptr) return Error{Errc::out_of_memory, "no memory for a pattern"};
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    pcre2_code* code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                      &offset, context.get());
    if (code == nullptr) {
      PCRE2_UCHAR reason[256] = {};
      pcre2_get_error_message(error, reason, sizeof(reason));
      return Error{Errc::unsupported,
                   "the pattern " + io::in_quotes(pattern) +
                       " does not compile: " + reinterpret_cast<const char*>(reason)};
    }
    Regex regex;
    regex.code_ = std::shared_ptr<const pcre2_code>(
        code, [](const pcre2_code* owned) { pcre2_code_free(const_cast<pcre2_code*>(owned)); });
    // Without JIT (a build of PCRE2 without it, a system that forbids it) matching is only slower.
    static_cast<void>(pcre2_jit_compile(code, PCRE2_JIT_COMPLETE));
    return regex;
  }

  // Calls visit(begin, end) for every match in order, empty ones included. False: the engine gave
  // up on its own limits, which a pattern that backtracks without end reaches.
  template <class Visit>
  [[nodiscard]] bool for_each_match(std::string_view text, Visit&& visit) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
    if (match == nullptr) return false;
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    std::size_t at = 0;
    std::size_t previous_end = 0;
    bool any = false;
    while (at <= text.size()) {
      int count = pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                              match.get(), nullptr);
      if (count == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
        count = pcre2_match(code_.get(), subject, text.size(), at,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(), nullptr);
      }
      if (count == PCRE2_ERROR_NOMATCH) return true;
      if (count < 0) return false;
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
      const std::size_t begin = range[0], end = range[1];
      if (begin < at || end < begin) return false;  // \K in a look-ahead can do this
      if (begin < end || !any || begin != previous_end) visit(begin, end);
      any = true;
      previous_end = end;
      at = end;
      if (begin == end) {  // step over one character, or it would match here forever
        if (at == text.size()) return true;
        do ++at;
        while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
      }
    }
    return true;
  }

 private:
  Regex() = default;
  std::shared_ptr<const pcre2_code> code_;  // immutable: shared by copies and by threads
};

}  // namespace bisup::text
