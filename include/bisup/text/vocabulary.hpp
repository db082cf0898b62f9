// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which string has which id? A Vocabulary maps both ways; ids may have holes, strings and ids are
// unique. hash_bytes and PairMap are the two tables that byte pair encoding lives on.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>

namespace bisup::text {

inline constexpr int no_token = -1;
inline constexpr int largest_token_id =
    (1 << 24) - 1;  // ids become table sizes; no model comes near

[[nodiscard]] inline std::uint64_t mix_bits(std::uint64_t x) noexcept {
  x *= 0x9E3779B97F4A7C15u;
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  return x ^ x >> 32;
}

[[nodiscard]] inline std::uint64_t hash_bytes(std::string_view bytes) noexcept {
  std::uint64_t state = bytes.size();
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  while (left >= 8) {
    std::uint64_t eight;
    std::memcpy(&eight, at, 8);
    state = mix_bits(state ^ eight);
    at += 8;
    left -= 8;
  }
  std::uint64_t rest = 0;
  for (std::size_t i = 0; i < left; ++i) {
    rest |= std::uint64_t{static_cast<unsigned char>(at[i])} << 8 * i;
  }
  return mix_bits(state ^ rest ^ left << 56);
}

class Vocabulary {
 public:
  // One more than the largest id.
  [[nodiscard]] int size() const noexcept { return static_cast<int>(tokens_.size()); }

  [[nodiscard]] bool contains(int id) const noexcept {
    return id >= 0 && id < size() && tokens_[static_cast<std::size_t>(id)].begin != absent;
  }
  // Empty for an id that is a hole.
  [[nodiscard]] std::string_view token(int id) const {
    if (!contains(id)) return {};
    const Token& token = tokens_[static_cast<std::size_t>(id)];
    return std::string_view(strings_).substr(token.begin, token.length);
  }
  // no_token if there is none.
  [[nodiscard]] int find(std::string_view text) const noexcept {
    if (slots_.empty()) return no_token;
    for (std::size_t slot = hash_bytes(text);; ++slot) {
      const int id = slots_[slot & (slots_.size() - 1)];
      if (id == no_token || token(id) == text) return id;
    }
  }
  // False if the string or the id is taken. Precondition: 0 <= id <= largest_token_id.
  [[nodiscard]] bool add(int id, std::string_view text) {
    BISUP_EXPECTS(id >= 0 && id <= largest_token_id);
    if (contains(id) || find(text) != no_token) return false;
    if (id >= size()) tokens_.resize(static_cast<std::size_t>(id) + 1);
    tokens_[static_cast<std::size_t>(id)] = {strings_.size(), text.size()};
    strings_.append(text);
    if (2 * (count_ + 1) > slots_.size()) grow();
    place(id);
    ++count_;
    return true;
  }

 private:
  static constexpr std::size_t absent = static_cast<std::size_t>(-1);
  struct Token {
    std::size_t begin = absent;
    std::size_t length = 0;
  };

  void place(int id) {
    std::size_t slot = hash_bytes(token(id));
    while (slots_[slot & (slots_.size() - 1)] != no_token) ++slot;
    slots_[slot & (slots_.size() - 1)] = id;
  }
  void grow() {
    const std::vector<int> old =
        std::exchange(slots_, std::vector<int>(slots_.empty() ? 64 : 2 * slots_.size(), no_token));
    for (const int id : old) {
      if (id != no_token) place(id);
    }
  }

  std::string strings_;
  std::vector<Token> tokens_;
  std::vector<int> slots_;  // a power of two, at most half full
  std::size_t count_ = 0;
};

// From a pair of 32-bit numbers to another such pair: what two neighbouring tokens merge into.
class PairMap {
 public:
  struct Value {
    std::uint32_t rank;  // the lowest is merged first
    int id;
  };
  static constexpr std::uint32_t no_rank = 0xFFFFFFFFu;

  PairMap() { reserve(0); }

  // For `count` pairs without growing.
  void reserve(std::size_t count) {
    const std::size_t wanted = std::bit_ceil(2 * count + 16);
    if (wanted <= entries_.size()) return;
    const std::vector<Entry> old = std::exchange(entries_, std::vector<Entry>(wanted));
    for (const Entry& entry : old) {
      if (entry.value.rank != no_rank) entries_[slot_of(entry.key)] = entry;
    }
  }
  // Keeps the entry of the lowest rank.
  void insert(std::uint32_t first, std::uint32_t second, Value value) {
    reserve(++count_);
    Entry& entry = entries_[slot_of(key(first, second))];
    if (entry.value.rank > value.rank) entry = {key(first, second), value};
  }
  // Its rank is no_rank if there is none.
  [[nodiscard]] Value find(std::uint32_t first, std::uint32_t second) const noexcept {
    return entries_[slot_of(key(first, second))].value;
  }
  [[nodiscard]] bool contains(std::uint32_t first, std::uint32_t second) const noexcept {
    return find(first, second).rank != no_rank;
  }

 private:
  struct Entry {
    std::uint64_t key = 0;
    Value value = {no_rank, no_token};
  };
  static std::uint64_t key(std::uint32_t first, std::uint32_t second) noexcept {
    return std::uint64_t{first} << 32 | second;
  }
  [[nodiscard]] std::size_t slot_of(std::uint64_t key) const noexcept {
    std::size_t slot = mix_bits(key);
    while (true) {
      const Entry& entry = entries_[slot & (entries_.size() - 1)];
      if (entry.value.rank == no_rank || entry.key == key) return slot & (entries_.size() - 1);
      ++slot;
    }
  }

  std::vector<Entry> entries_;  // a power of two, at most half full
  std::size_t count_ = 0;
};

}  // namespace bisup::text
