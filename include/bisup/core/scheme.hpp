// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a whole model quantized? A Scheme says it in one word, the same in commands, artefacts and
// tables: W<b>A<b>[KV<b> | K<b>V<b>][-g<N> | -channel][-atoken][-affine][-head8 | -head16].
// 16 bits mean "not quantized". Without KV the cache is float; without a group, -g128.

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <bisup/core/format.hpp>
#include <bisup/core/result.hpp>

namespace bisup {

struct Scheme {
  int weight_bits = 16;
  int activation_bits = 16;
  int key_bits = 16;
  int value_bits = 16;
  int group = 128;            // of weights and activations; 0: one group a row ("-channel")
  bool token_scales = false;  // one activation scale a token, whatever the group ("-atoken")
  bool affine = false;        // weights with zero points
  int head_bits = 16;         // lm_head: 16 (f16) or 8 (one scale a row)

  friend constexpr bool operator==(const Scheme&, const Scheme&) = default;

  [[nodiscard]] constexpr bool quantizes_weights() const { return weight_bits < 16; }
  [[nodiscard]] constexpr bool quantizes_activations() const { return activation_bits < 16; }
  [[nodiscard]] constexpr bool quantizes_cache() const { return key_bits < 16 || value_bits < 16; }
  [[nodiscard]] constexpr Format weight_format() const {
    return {.bits = weight_bits, .group = group, .zero = affine ? Zero::affine : Zero::symmetric};
  }

  [[nodiscard]] static Result<Scheme> parse(std::string_view text);
  // The canonical spelling: parse(s.name()) == s.
  [[nodiscard]] std::string name() const;
};

namespace detail {

constexpr bool allowed_bits(char kind, int bits) {
  switch (kind) {
    case 'W':
      return bits == 2 || bits == 3 || bits == 4 || bits == 5 || bits == 6 || bits == 8 ||
             bits == 16;
    case 'A': return (bits >= 2 && bits <= 8) || bits == 16;
    default: return bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16;
  }
}

// Reads a number off the front of `text`.
inline std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

inline bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace detail

inline Result<Scheme> Scheme::parse(std::string_view text) {
  const auto refuse = [text](const std::string& reason) {
    return Error{Errc::bad_scheme,
                 std::string("'").append(text) + "': " + reason +
                     " (a scheme reads W<b>A<b>[KV<b> | K<b>V<b>][-g<N> | -channel]"
                     "[-atoken][-affine][-head8 | -head16])"};
  };
  Scheme scheme;
  std::string_view rest = text;
  const auto bits = [&](std::string_view letters, int& into) -> std::optional<std::string> {
    if (!detail::take_prefix(rest, letters))
      return std::string("expected ").append(letters).append("<bits>");
    const auto value = detail::take_number(rest);
    const char kind = letters[0] == 'V' ? 'K' : letters[0];
    if (!value || !detail::allowed_bits(kind, *value)) {
      return std::string(letters)
          .append(" cannot have ")
          .append(value ? std::to_string(*value).append(" bits") : "no number");
    }
    into = *value;
    return std::nullopt;
  };
  if (auto wrong = bits("W", scheme.weight_bits)) return refuse(*wrong);
  if (auto wrong = bits("A", scheme.activation_bits)) return refuse(*wrong);
  if (rest.starts_with("KV")) {
    if (auto wrong = bits("KV", scheme.key_bits)) return refuse(*wrong);
    scheme.value_bits = scheme.key_bits;
  } else if (rest.starts_with("K")) {
    if (auto wrong = bits("K", scheme.key_bits)) return refuse(*wrong);
    if (auto wrong = bits("V", scheme.value_bits)) return refuse(*wrong);
  }
  bool group_given = false, head_given = false;
  while (!rest.empty()) {
    if (detail::take_prefix(rest, "-channel")) {
      if (std::exchange(group_given, true)) return refuse("more than one group");
      scheme.group = 0;
    } else if (detail::take_prefix(rest, "-g")) {
      const auto group = detail::take_number(rest);
      if (std::exchange(group_given, true)) return refuse("more than one group");
      if (!group || (*group != 32 && *group != 64 && *group != 128)) {
        return refuse("a group has 32, 64 or 128 codes");
      }
      scheme.group = *group;
    } else if (detail::take_prefix(rest, "-atoken")) {
      if (std::exchange(scheme.token_scales, true)) return refuse("-atoken twice");
    } else if (detail::take_prefix(rest, "-affine")) {
      if (std::exchange(scheme.affine, true)) return refuse("-affine twice");
    } else if (detail::take_prefix(rest, "-head16") || detail::take_prefix(rest, "-head8")) {
      if (std::exchange(head_given, true)) return refuse("more than one head width");
      scheme.head_bits = text[text.size() - rest.size() - 1] == '8' ? 8 : 16;
    } else {
      return refuse(std::string("cannot read '").append(rest).append("'"));
    }
  }
  // What cannot matter has one spelling: nothing carries a group or a zero point that nothing uses.
  if (scheme.affine && !scheme.quantizes_weights())
    return refuse("-affine needs quantized weights");
  if (scheme.token_scales && !scheme.quantizes_activations()) {
    return refuse("-atoken needs quantized activations");
  }
  if (scheme.group == 0) scheme.token_scales = scheme.quantizes_activations();
  return scheme;
}

inline std::string Scheme::name() const {
  std::string text;
  const auto add = [&text](const char* letters, int number) {
    text += letters, text += std::to_string(number);
  };
  add("W", weight_bits), add("A", activation_bits);
  if (key_bits != value_bits) {
    add("K", key_bits), add("V", value_bits);
  } else if (key_bits < 16) {
    add("KV", key_bits);
  }
  if (group == 0) {
    text += "-channel";
  } else {
    add("-g", group);
  }
  if (token_scales && group != 0) text += "-atoken";
  if (affine) text += "-affine";
  return text + (head_bits == 8 ? "-head8" : "-head16");
}

}  // namespace bisup
