// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which stretches of a text are tokens as they stand? Added tokens are cut out before anything else
// looks at the text: leftmost first, the longest of several. Special ones steer the model, so they
// are found only where the caller vouches for the text.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/text/unicode.hpp>
#include <bisup/text/vocabulary.hpp>

namespace bisup::text {

struct AddedToken {
  int id = no_token;
  std::string content;
  bool special = false;      // steers the model; not shown to people
  bool normalized = false;   // looked for after normalization, and normalized itself
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // takes the white space behind it
  bool single_word = false;  // not inside a word
};

// A stretch of text that may hold special tokens: [begin, end) in bytes.
struct TrustedRange {
  std::size_t begin = 0;
  std::size_t end = std::numeric_limits<std::size_t>::max();
};

// Finds a set of strings in text: a trie of bytes.
class TokenFinder {
 public:
  void add(std::string_view content, std::size_t index) {
    if (content.empty()) return;
    starts_[static_cast<unsigned char>(content[0])] = true;
    std::size_t node = 0;
    for (const char c : content) {
      const std::size_t found = child(node, c);
      if (found != none) {
        node = found;
        continue;
      }
      nodes_[node].children.emplace_back(c, nodes_.size());
      node = nodes_.size();
      nodes_.emplace_back();
    }
    if (nodes_[node].token == none) nodes_[node].token = index;
  }
  [[nodiscard]] bool empty() const noexcept { return nodes_.size() == 1; }

  struct Match {
    std::size_t begin, end;
    std::size_t index;
  };
  // The first match at or behind `from`; begin == text.size() if there is none.
  [[nodiscard]] Match find(std::string_view text, std::size_t from) const {
    for (std::size_t begin = from; begin < text.size(); ++begin) {
      if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
      Match longest = {text.size(), 0, none};
      std::size_t node = 0;
      for (std::size_t at = begin; at < text.size(); ++at) {
        node = child(node, text[at]);
        if (node == none) break;
        if (nodes_[node].token != none) longest = {begin, at + 1, nodes_[node].token};
      }
      if (longest.index != none) return longest;
    }
    return {text.size(), 0, none};
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct Node {
    std::vector<std::pair<char, std::size_t>> children;
    std::size_t token = none;
  };
  [[nodiscard]] std::size_t child(std::size_t node, char c) const {
    for (const auto& [byte, next] : nodes_[node].children) {
      if (byte == c) return next;
    }
    return none;
  }

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> starts_ = {};
};

class AddedTokens {
 public:
  enum class Stage : std::uint8_t {
    raw,         // tokens that are not normalized, in text that is not yet normalized
    normalized,  // the others, in normalized text
    literal,     // all tokens as they are spelled: for templates, which spell them
  };

  AddedTokens() = default;
  // normalize(std::string&) -> bool rewrites the tokens that are looked for in normalized text.
  template <class Normalize>
  AddedTokens(std::vector<AddedToken> tokens, Normalize&& normalize) : tokens_(std::move(tokens)) {
    // Special tokens first: of two that are spelled alike the first one added is found.
    std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
      return a.special && !b.special;
    });
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      finder(Stage::literal).add(tokens_[i].content, i);
      std::string content = tokens_[i].content;
      if (tokens_[i].normalized && !normalize(content)) continue;
      finder(tokens_[i].normalized ? Stage::normalized : Stage::raw).add(content, i);
    }
  }

  [[nodiscard]] const std::vector<AddedToken>& tokens() const noexcept { return tokens_; }

  // Calls visit(text, id) for stretches in order: id is no_token for ordinary text. Special tokens
  // are found only inside `trusted`, whose ranges are in order.
  template <class Visit>
  [[nodiscard]] bool split(std::string_view text, Stage stage,
                           std::span<const TrustedRange> trusted, Visit&& visit) const {
    const TokenFinder& finder = finders_[static_cast<std::size_t>(stage)];
    if (finder.empty()) return text.empty() || visit(text, no_token);
    std::size_t done = 0;
    for (std::size_t from = 0; from < text.size();) {
      const auto match = finder.find(text, from);
      if (match.begin == text.size()) break;
      const AddedToken& token = tokens_[match.index];
      if (token.special && !is_trusted(match.begin, match.end, trusted)) {
        // Where nothing is trusted the whole match is passed over, as other implementations do.
        // Where something is, a real token may begin inside what a stranger began to spell.
        from = trusted.empty() ? match.end : match.begin + 1;
        continue;
      }
      from = match.end;
      if (token.single_word && !stands_alone(text, match.begin, match.end)) continue;
      std::size_t begin = match.begin, end = match.end;
      if (token.left_strip) begin = std::max(done, strip_left(text, begin));
      if (token.right_strip) end = strip_right(text, end);
      if (begin > done && !visit(text.substr(done, begin - done), no_token)) return false;
      if (!visit(text.substr(begin, end - begin), token.id)) return false;
      done = end;
      from = std::max(from, end);
    }
    return done == text.size() || visit(text.substr(done), no_token);
  }

 private:
  TokenFinder& finder(Stage stage) { return finders_[static_cast<std::size_t>(stage)]; }

  static bool is_trusted(std::size_t begin, std::size_t end,
                         std::span<const TrustedRange> trusted) {
    const auto range =
        std::upper_bound(trusted.begin(), trusted.end(), begin,
                         [](std::size_t at, const TrustedRange& one) { return at < one.end; });
    return range != trusted.end() && range->begin <= begin && end <= range->end;
  }
  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin == 0 || !is_word_character(decode_utf8_before(text.data() + begin).value)) &&
           (end == text.size() || !is_word_character(decode_utf8(text.data() + end).value));
  }
  static std::size_t strip_left(std::string_view text, std::size_t begin) {
    while (begin > 0) {
      const CodePoint c = decode_utf8_before(text.data() + begin);
      if (!is_white_space(c.value)) break;
      begin -= static_cast<std::size_t>(c.bytes);
    }
    return begin;
  }
  static std::size_t strip_right(std::string_view text, std::size_t end) {
    while (end < text.size()) {
      const CodePoint c = decode_utf8(text.data() + end);
      if (!is_white_space(c.value)) break;
      end += static_cast<std::size_t>(c.bytes);
    }
    return end;
  }

  std::vector<AddedToken> tokens_;
  std::array<TokenFinder, 3> finders_;
};

}  // namespace bisup::text
