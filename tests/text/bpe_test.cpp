// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/bpe.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <set>
#include <string>
#include <vector>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;

// Tokens are strings over "abcd"; the merges are random, and each token has one rank.
BpeParts random_parts(Random& random, Vocabulary& vocabulary, int merges) {
  BpeParts parts;
  parts.symbols = BpeParts::Symbols::characters;
  parts.byte_ids.fill(no_token);
  std::vector<std::string> tokens;
  const auto add = [&](const std::string& token) {
    REQUIRE(vocabulary.add(static_cast<int>(tokens.size()), token));
    tokens.push_back(token);
  };
  for (const char c : {'a', 'b', 'c', 'd'}) {
    parts.characters.emplace_back(static_cast<char32_t>(c), static_cast<int>(tokens.size()));
    add(std::string(1, c));
  }
  for (int i = 0; i < merges; ++i) {
    const std::string left = tokens[random.below(static_cast<std::uint32_t>(tokens.size()))];
    const std::string right = tokens[random.below(static_cast<std::uint32_t>(tokens.size()))];
    if (vocabulary.find(left + right) != no_token) continue;
    add(left + right);
    parts.merges.push_back({vocabulary.find(left), vocabulary.find(right),
                            vocabulary.find(left + right), static_cast<std::uint32_t>(i)});
  }
  return parts;
}

// The definition, as slow as it is short.
std::vector<int> by_definition(const BpeParts& parts, const Vocabulary& vocabulary,
                               std::string_view word) {
  std::vector<int> symbols;
  for (const char c : word) symbols.push_back(vocabulary.find(std::string(1, c)));
  while (true) {
    const BpeMerge* best = nullptr;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (const BpeMerge& merge : parts.merges) {
        if (merge.left == symbols[i] && merge.right == symbols[i + 1] &&
            (best == nullptr || merge.rank < best->rank)) {
          best = &merge;
          place = i;
        }
      }
    }
    if (best == nullptr) return symbols;
    symbols[place] = best->result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

std::string random_word(Random& random, std::size_t length) {
  std::string word;
  for (std::size_t i = 0; i < length; ++i) word += static_cast<char>('a' + random.below(4));
  return word;
}

TEST_CASE("short words, long words and remembered words are merged by definition") {
  Random random(4);
  for (int round = 0; round < 12; ++round) {
    Vocabulary vocabulary;
    const BpeParts parts = random_parts(random, vocabulary, 24);
    const Bpe bpe(parts);
    BpeScratch scratch;
    for (int i = 0; i < 60; ++i) {
      const std::string word =
          random_word(random, i < 50 ? 1 + random.below(20) : 90 + random.below(60));
      const auto expected = by_definition(parts, vocabulary, word);
      for (int again = 0; again < 2; ++again) {
        std::vector<int> ids;
        bpe.encode(word, scratch, ids);
        REQUIRE(ids == expected);
      }
    }
  }
}

TEST_CASE("cutting where no merge reaches across changes nothing") {
  Random random(5);
  for (int round = 0; round < 30; ++round) {
    Vocabulary vocabulary;
    BpeParts parts = random_parts(random, vocabulary, 5);
    const Bpe whole(parts);
    for (const BpeMerge& merge : parts.merges) {
      parts.joints.emplace_back(vocabulary.token(merge.left).back(),
                                vocabulary.token(merge.right).front());
    }
    const Bpe cut(parts);
    BpeScratch scratch, other;
    for (int i = 0; i < 40; ++i) {
      const std::string word = random_word(random, 1 + random.below(60));
      std::vector<int> expected, ids;
      whole.encode(word, scratch, expected);
      cut.encode(word, other, ids);
      REQUIRE(ids == expected);
    }
  }
}

TEST_CASE("characters without a token: bytes, or the unknown token, fused or not") {
  BpeParts parts;
  parts.symbols = BpeParts::Symbols::characters;
  parts.byte_ids.fill(no_token);
  parts.characters = {{U'a', 1}};
  parts.joints = {{U'x', U'x'}};  // nothing that occurs here: every boundary may be cut
  const auto encode = [&](std::string_view word) {
    BpeScratch scratch;
    std::vector<int> ids;
    Bpe(parts).encode(word, scratch, ids);
    return ids;
  };
  using Ids = std::vector<int>;
  CHECK(encode("a\u00e9\u00e8"
               "a") == Ids{1, 1});
  parts.unknown = 0;
  CHECK(encode("a\u00e9\u00e8"
               "a") == Ids{1, 0, 0, 1});
  parts.fuse_unknown = true;
  CHECK(encode("a\u00e9\u00e8"
               "a") == Ids{1, 0, 1});
  parts.byte_ids[0xC3] = 5;
  parts.byte_ids[0xA9] = 6;
  CHECK(encode("a\u00e9\u00e8"
               "a") == Ids{1, 5, 6, 0, 1});
}

TEST_CASE("unnamed symbols merge and fall back to bytes") {
  BpeParts parts;
  parts.symbols = BpeParts::Symbols::characters;
  for (std::size_t byte = 0; byte < 256; ++byte) parts.byte_ids[byte] = static_cast<int>(byte);
  parts.characters = {{U'b', 300}};
  parts.unnamed = {U'a'};
  parts.first_unnamed = 1000;
  parts.merges = {{1000, 300, 301, 0}};
  BpeScratch scratch;
  std::vector<int> ids;
  Bpe(parts).encode("aba", scratch, ids);
  CHECK(ids == std::vector<int>{301, 'a'});
}

// A heap takes a second at most where looking through all pairs for each merge would take an hour.
TEST_CASE("a megabyte without a cut is merged in reasonable time") {
  Random random(6);
  Vocabulary vocabulary;
  const Bpe bpe(random_parts(random, vocabulary, 40));
  const std::string word = random_word(random, 1 << 20);
  BpeScratch scratch;
  std::vector<int> ids;
  bpe.encode(word, scratch, ids);
  std::string back;
  for (const int id : ids) back += vocabulary.token(id);
  CHECK(back == word);
}

TEST_CASE("the cache gives back what was stored, or nothing") {
  WordCache cache;
  Random random(7);
  for (int i = 0; i < 200000; ++i) {
    const std::string word = random_word(random, 1 + random.below(9));
    const std::uint64_t hash = hash_bytes(word);
    const std::vector<int> tokens = {static_cast<int>(hash & 0xFFFF),
                                     static_cast<int>(word.size())};
    std::vector<int> found;
    if (cache.append(word, hash, found)) REQUIRE(found == tokens);
    cache.store(word, hash, tokens);
    found.clear();
    REQUIRE(cache.append(word, hash, found));
  }
}

}  // namespace
