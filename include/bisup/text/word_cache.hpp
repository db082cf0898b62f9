// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Was this word encoded before? Text repeats its words, so a table of bounded size that forgets on
// collision answers most of the time. Only short words with few tokens are kept: one line of the
// processor's cache each.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include <bisup/text/vocabulary.hpp>

namespace bisup::text {

class WordCache {
 public:
  static constexpr std::size_t longest_word = 31;  // bytes
  static constexpr std::size_t most_tokens = 6;

  // Appends the word's tokens to `out` if it is known.
  [[nodiscard]] bool append(std::string_view word, std::uint64_t hash,
                            std::vector<int>& out) const {
    for (const std::size_t slot : {hash & mask, (hash & mask) ^ 1}) {
      const Entry& entry = entries_[slot];
      if (entry.word_bytes == word.size() && entry.tag == tag_of(hash) &&
          std::memcmp(entry.word.data(), word.data(), word.size()) == 0) {
        out.insert(out.end(), entry.tokens.begin(), entry.tokens.begin() + entry.token_count);
        return true;
      }
    }
    return false;
  }

  // Precondition: the word has 1 to longest_word bytes. Ignored if it has too many tokens.
  void store(std::string_view word, std::uint64_t hash, std::span<const int> tokens) {
    if (tokens.size() > most_tokens) return;
    Entry& home = entries_[hash & mask];
    Entry& neighbour = entries_[(hash & mask) ^ 1];
    // The newcomer takes the first place; whoever lived there moves on and the oldest is forgotten.
    if (home.word_bytes != 0) neighbour = home;
    home.tag = tag_of(hash);
    home.word_bytes = static_cast<std::uint8_t>(word.size());
    home.token_count = static_cast<std::uint8_t>(tokens.size());
    std::memcpy(home.word.data(), word.data(), word.size());
    std::memcpy(home.tokens.data(), tokens.data(), tokens.size() * sizeof(int));
  }

 private:
  struct alignas(64) Entry {
    std::uint32_t tag = 0;
    std::uint8_t word_bytes = 0;  // 0: nobody lives here
    std::uint8_t token_count = 0;
    std::array<char, 32> word;
    std::array<int, most_tokens> tokens;
  };
  static_assert(sizeof(Entry) == 64);
  static constexpr std::size_t mask = (1 << 15) - 1;  // 2 MiB

  static std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32); }

  std::vector<Entry> entries_ = std::vector<Entry>(mask + 1);
};

}  // namespace bisup::text
