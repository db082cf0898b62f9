// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which bytes does a token stand for? A Detokenizer knows for every id what it adds to the text;
// the few rules that look at the text as a whole concern only its beginning. Decoder turns a stream
// of ids into a stream of UTF-8.

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <bisup/text/byte_alphabet.hpp>
#include <bisup/text/split_pattern.hpp>
#include <bisup/text/unicode.hpp>
#include <bisup/text/vocabulary.hpp>

namespace bisup::text {

struct ByteLevelDecoding {};     // the alphabet back to bytes; a token outside of it stays as it is
struct ByteFallbackDecoding {};  // "<0x0A>" to a byte
struct ReplaceDecoding {
  SplitPattern pattern;
  std::string content;
};
struct StripDecoding {  // up to `start` times `content` at the beginning of each token
  std::string content;
  int start = 0;
};

struct DetokenizerRules {
  using Step =
      std::variant<ByteLevelDecoding, ByteFallbackDecoding, ReplaceDecoding, StripDecoding>;
  std::vector<Step> steps;       // applied to each token
  std::string separator;         // between tokens
  StripDecoding strip;           // at the beginning of the text
  std::string dropped_in_first;  // wherever it is in the first token (as Metaspace does)
};

class Detokenizer {
 public:
  Detokenizer() = default;
  Detokenizer(const Vocabulary& vocabulary, DetokenizerRules rules) : rules_(std::move(rules)) {
    begins_.reserve(static_cast<std::size_t>(vocabulary.size()) + 1);
    for (int id = 0; id < vocabulary.size(); ++id) {
      begins_.push_back(bytes_.size());
      if (vocabulary.contains(id)) bytes_ += apply(std::string(vocabulary.token(id)));
    }
    begins_.push_back(bytes_.size());
  }

  [[nodiscard]] const DetokenizerRules& rules() const noexcept { return rules_; }
  // What the id stands for behind other text. Empty for an id that is none.
  [[nodiscard]] std::string_view bytes(int id) const {
    if (id < 0 || static_cast<std::size_t>(id) + 1 >= begins_.size()) return {};
    const auto index = static_cast<std::size_t>(id);
    return std::string_view(bytes_).substr(begins_[index], begins_[index + 1] - begins_[index]);
  }

 private:
  [[nodiscard]] std::string apply(std::string token) const {
    for (const auto& step : rules_.steps) {
      if (std::holds_alternative<ByteLevelDecoding>(step)) {
        if (auto bytes = alphabet_to_bytes(token)) token = std::move(*bytes);
      } else if (std::holds_alternative<ByteFallbackDecoding>(step)) {
        if (const auto byte = named_byte(token)) token = static_cast<char>(*byte);
      } else if (const auto* replace = std::get_if<ReplaceDecoding>(&step)) {
        std::string out;
        const bool done =
            replace->pattern.for_each_piece(token, [&](std::string_view piece, bool is_match) {
              out += is_match ? std::string_view(replace->content) : piece;
              return true;
            });
        if (done) token = std::move(out);
      } else if (const auto* strip = std::get_if<StripDecoding>(&step)) {
        for (int i = 0; i < strip->start && token.starts_with(strip->content); ++i) {
          token.erase(0, strip->content.size());
        }
      }
    }
    return token;
  }

  DetokenizerRules rules_;
  std::string bytes_;
  std::vector<std::size_t> begins_;
};

// Bytes in, UTF-8 out: nothing is emitted before its character is complete, and what never becomes
// a character comes out as U+FFFD.
class Utf8Stream {
 public:
  [[nodiscard]] std::string push(std::string_view bytes) {
    held_ += bytes;
    std::string out;
    std::string_view rest = held_;
    while (!rest.empty()) {
      const std::size_t valid = valid_utf8_prefix(rest);
      out.append(rest.substr(0, valid));
      rest.remove_prefix(valid);
      if (rest.empty()) break;
      const Utf8Unit unit = scan_utf8(rest);
      if (unit.state == Utf8State::incomplete) break;
      out.append(replacement_character);
      rest.remove_prefix(static_cast<std::size_t>(unit.bytes));
    }
    held_ = std::string(rest);
    return out;
  }
  // What is still held back, as U+FFFD.
  [[nodiscard]] std::string finish() { return replace_invalid_utf8(std::exchange(held_, {})); }

 private:
  std::string held_;  // at most three bytes
};

}  // namespace bisup::text
