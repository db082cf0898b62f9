// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which tokens is a word made of? Byte pair encoding: begin with its bytes or characters and, as
// long as any two neighbours may merge, merge the pair of the lowest rank, the leftmost of equals.
// A SentencePiece model is the same with ranks that follow from its scores (tokenizer_gguf.hpp).

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/text/unicode.hpp>
#include <bisup/text/vocabulary.hpp>
#include <bisup/text/word_cache.hpp>

namespace bisup::text {

struct BpeMerge {
  int left, right, result;
  std::uint32_t rank;
};

// What the algorithm needs to know. Ids are those of the vocabulary, or of `unnamed`: symbol
// `first_unnamed + i` is the character unnamed[i], which merges but is no token by itself.
struct BpeParts {
  enum class Symbols : std::uint8_t { bytes, characters };
  Symbols symbols = Symbols::bytes;
  std::array<int, 256> byte_ids = {};                // of each byte, or no_token
  std::vector<std::pair<char32_t, int>> characters;  // unused for bytes
  std::vector<char32_t> unnamed;
  int first_unnamed = 0;
  std::vector<BpeMerge> merges;
  int unknown =
      no_token;  // for a character that has no token and no byte tokens; no_token: dropped
  bool fuse_unknown = false;
  // Filled if a word that is a token needs no merges to become it.
  Vocabulary whole_words;
  // Pairs of characters that some merge may join; between two others a text can be cut. Empty if
  // that is not known: if a merge has the unknown token or the token of a byte in it.
  std::vector<std::pair<char32_t, char32_t>> joints;
};

// What encoding writes on the way. Not shared between threads.
struct BpeScratch {
  struct Symbol {
    int id, previous, next;
  };
  struct Candidate {
    std::uint32_t rank;
    int position, id;
    friend bool operator>(const Candidate& a, const Candidate& b) {
      return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
    }
  };
  WordCache cache;
  std::vector<int> symbols;
  std::vector<PairMap::Value> pairs;
  std::vector<Symbol> links;
  std::vector<Candidate> candidates;
};

class Bpe {
 public:
  Bpe() = default;
  explicit Bpe(BpeParts parts) : parts_(std::move(parts)) {
    merges_.reserve(parts_.merges.size());
    for (const BpeMerge& merge : parts_.merges) {
      merges_.insert(unsigned_id(merge.left), unsigned_id(merge.right), {merge.rank, merge.result});
    }
    parts_.merges = {};
    for (const auto& [character, id] : parts_.characters) characters_.insert(0, character, {0, id});
    for (std::size_t i = 0; i < parts_.unnamed.size(); ++i) {
      characters_.insert(0, parts_.unnamed[i], {0, parts_.first_unnamed + static_cast<int>(i)});
    }
    for (const auto& [before, behind] : parts_.joints) joints_.insert(before, behind, {0, 0});
    const auto& bytes = parts_.byte_ids;
    has_all_bytes_ = std::find(bytes.begin(), bytes.end(), no_token) == bytes.end();
  }

  // Appends the tokens of one word. Precondition: valid UTF-8 if symbols are characters.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int>& out) const {
    BISUP_EXPECTS(word.size() < 0x7FFFFFFF);
    if (!cuts_at_joints()) return encode_word(word, scratch, out);
    if (const int id = parts_.whole_words.find(word); id != no_token) return out.push_back(id);
    // A merge joins the last character of its left token with the first of its right one, so cuts
    // between characters that no merge joins change nothing, and short words are cheap. Unknown
    // characters may fuse with what precedes them, so none of them begins a word.
    std::size_t begin = 0;
    char32_t before = 0;
    for (std::size_t at = 0; at < word.size();) {
      const CodePoint c = decode_utf8(word.data() + at);
      if (at > begin && !joints_.contains(before, c.value) &&
          (has_all_bytes_ || is_known(c.value))) {
        encode_word(word.substr(begin, at - begin), scratch, out);
        begin = at;
      }
      before = c.value;
      at += static_cast<std::size_t>(c.bytes);
    }
    encode_word(word.substr(begin), scratch, out);
  }

 private:
  // Above so many symbols the heap wins over looking through all pairs for each merge.
  static constexpr std::size_t longest_scan = 96;

  static std::uint32_t unsigned_id(int id) { return static_cast<std::uint32_t>(id); }

  [[nodiscard]] bool cuts_at_joints() const {
    return parts_.symbols == BpeParts::Symbols::characters && !parts_.joints.empty();
  }
  [[nodiscard]] bool is_known(char32_t c) const { return characters_.contains(0, c); }

  void encode_word(std::string_view word, BpeScratch& scratch, std::vector<int>& out) const {
    if (word.empty()) return;
    const bool cacheable = word.size() <= WordCache::longest_word;
    const std::uint64_t hash = cacheable ? hash_bytes(word) : 0;
    if (cacheable && scratch.cache.append(word, hash, out)) return;
    const std::size_t begin = out.size();
    if (const int id = parts_.whole_words.find(word); id != no_token) {
      out.push_back(id);
    } else {
      collect_symbols(word, scratch.symbols);
      if (scratch.symbols.size() <= longest_scan) {
        merge_by_scan(scratch);
      } else {
        merge_by_heap(scratch);
      }
      for (const int symbol : scratch.symbols) append_symbol(symbol, out);
    }
    if (cacheable) scratch.cache.store(word, hash, std::span<const int>(out).subspan(begin));
  }

  void collect_symbols(std::string_view word, std::vector<int>& symbols) const {
    symbols.clear();
    if (parts_.symbols == BpeParts::Symbols::bytes) {
      bool after_unknown = false;
      for (const char c : word) {
        const int id = parts_.byte_ids[static_cast<unsigned char>(c)];
        if (id != no_token) {
          symbols.push_back(id);
        } else if (parts_.unknown != no_token && !(parts_.fuse_unknown && after_unknown)) {
          symbols.push_back(parts_.unknown);
        }
        after_unknown = id == no_token;
      }
      return;
    }
    bool unknown_waits = false;
    const auto flush = [&] {
      if (std::exchange(unknown_waits, false)) symbols.push_back(parts_.unknown);
    };
    for (std::size_t at = 0; at < word.size();) {
      const CodePoint c = decode_utf8(word.data() + at);
      const std::string_view bytes = word.substr(at, static_cast<std::size_t>(c.bytes));
      at += bytes.size();
      const PairMap::Value known = characters_.find(0, c.value);
      if (known.rank != PairMap::no_rank) {
        flush();
        symbols.push_back(known.id);
      } else if (!append_bytes(bytes, symbols) && parts_.unknown != no_token) {
        if (!parts_.fuse_unknown) flush();
        unknown_waits = true;
      }
    }
    flush();
  }

  // All bytes of a character or none of them.
  [[nodiscard]] bool append_bytes(std::string_view bytes, std::vector<int>& out) const {
    const auto id = [this](char c) { return parts_.byte_ids[static_cast<unsigned char>(c)]; };
    for (const char c : bytes) {
      if (id(c) == no_token) return false;
    }
    for (const char c : bytes) out.push_back(id(c));
    return true;
  }

  void append_symbol(int symbol, std::vector<int>& out) const {
    const int unnamed = symbol - parts_.first_unnamed;
    if (parts_.unnamed.empty() || unnamed < 0) return out.push_back(symbol);
    std::string bytes;
    append_utf8(bytes, parts_.unnamed[static_cast<std::size_t>(unnamed)]);
    if (!append_bytes(bytes, out) && parts_.unknown != no_token) out.push_back(parts_.unknown);
  }

  [[nodiscard]] PairMap::Value find_merge(int left, int right) const {
    return merges_.find(unsigned_id(left), unsigned_id(right));
  }

  void merge_by_scan(BpeScratch& scratch) const {
    auto& symbols = scratch.symbols;
    auto& pairs = scratch.pairs;  // pairs[i]: what symbols[i] and symbols[i + 1] become
    pairs.clear();
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      pairs.push_back(find_merge(symbols[i], symbols[i + 1]));
    }
    while (!pairs.empty()) {
      std::size_t best = 0;
      for (std::size_t i = 1; i < pairs.size(); ++i) {
        if (pairs[i].rank < pairs[best].rank) best = i;
      }
      if (pairs[best].rank == PairMap::no_rank) return;
      symbols[best] = pairs[best].id;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(best));
      if (best > 0) pairs[best - 1] = find_merge(symbols[best - 1], symbols[best]);
      if (best < pairs.size()) pairs[best] = find_merge(symbols[best], symbols[best + 1]);
    }
  }

  // A text of a million characters without a cut must not take a million squared steps.
  void merge_by_heap(BpeScratch& scratch) const {
    auto& links = scratch.links;
    links.clear();
    const int count = static_cast<int>(scratch.symbols.size());
    for (int i = 0; i < count; ++i) {
      links.push_back(
          {scratch.symbols[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
    }
    const auto link = [&links](int i) -> BpeScratch::Symbol& {
      return links[static_cast<std::size_t>(i)];
    };
    scratch.candidates.clear();
    std::priority_queue<BpeScratch::Candidate, std::vector<BpeScratch::Candidate>, std::greater<>>
        heap(std::greater<>(), std::move(scratch.candidates));
    const auto offer = [&](int position) {
      if (position < 0 || link(position).next < 0) return;
      const auto merge = find_merge(link(position).id, link(link(position).next).id);
      if (merge.rank != PairMap::no_rank) heap.push({merge.rank, position, merge.id});
    };
    for (int i = 0; i < count; ++i) offer(i);
    while (!heap.empty()) {
      const BpeScratch::Candidate best = heap.top();
      heap.pop();
      BpeScratch::Symbol& left = link(best.position);
      if (left.id == no_token || left.next < 0) continue;  // merged away meanwhile
      const auto merge = find_merge(left.id, link(left.next).id);
      if (merge.rank != best.rank || merge.id != best.id) continue;  // its neighbour is another now
      BpeScratch::Symbol& right = link(left.next);
      left.id = best.id;
      left.next = std::exchange(right.next, -1);
      right.id = no_token;
      if (left.next >= 0) link(left.next).previous = best.position;
      offer(left.previous);
      offer(best.position);
    }
    scratch.symbols.clear();
    for (const auto& symbol : links) {
      if (symbol.id != no_token) scratch.symbols.push_back(symbol.id);
    }
  }

  BpeParts parts_;
  PairMap merges_;
  PairMap characters_;  // (0, character) to its symbol
  PairMap joints_;
  bool has_all_bytes_ = false;
};

}  // namespace bisup::text
