// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Small tokenizers and awkward text for tests, made from a seed: nothing is read from files.

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup/io/json.hpp>
#include <bisup/text/byte_alphabet.hpp>
#include <bisup/text/unicode.hpp>

namespace tiny {

using bisup::io::Json;

inline constexpr std::string_view lore =
    "the cat and the hat and the rat sat on the mat; then they ate at the theatre. "
    "don't they'll we're I've 1234 007 x=3; \n\n  indented\n\ttab caf\u00e9 d\u00e9j\u00e0 "
    "\u4f60\u597d\u4e16\u754c \u4f60\u597d the cat and the hat and the end";

// Symbols of `text`: bytes in their alphabet, or characters.
inline std::vector<std::string> symbols(std::string_view text, bool bytes) {
  std::vector<std::string> out;
  const std::string spelled = bytes ? bisup::text::bytes_to_alphabet(text) : std::string(text);
  for (std::size_t at = 0; at < spelled.size();) {
    const auto length = static_cast<std::size_t>(bisup::text::decode_utf8(&spelled[at]).bytes);
    out.push_back(spelled.substr(at, length));
    at += length;
  }
  return out;
}

// The merges that training on `lore` gives: most frequent pair first.
inline std::vector<std::pair<std::string, std::string>> train(bool bytes, int count) {
  std::string text(lore);
  if (!bytes) {
    std::string spaced;
    for (const char c : text) spaced += c == ' ' ? std::string("\u2581") : std::string(1, c);
    text = spaced;
  }
  auto left = symbols(text, bytes);
  std::vector<std::pair<std::string, std::string>> merges;
  while (static_cast<int>(merges.size()) < count) {
    std::map<std::pair<std::string, std::string>, int> seen;
    for (std::size_t i = 0; i + 1 < left.size(); ++i) ++seen[{left[i], left[i + 1]}];
    auto best = seen.begin();
    for (auto it = seen.begin(); it != seen.end(); ++it) {
      if (it->second > best->second) best = it;
    }
    if (best->second < 2) break;
    merges.push_back(best->first);
    std::vector<std::string> merged;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (i + 1 < left.size() && std::pair(left[i], left[i + 1]) == best->first) {
        merged.push_back(left[i] + left[i + 1]);
        ++i;
      } else {
        merged.push_back(left[i]);
      }
    }
    left = merged;
  }
  return merges;
}

inline Json added(int id, std::string content, bool special) {
  return {{"id", id},
          {"content", std::move(content)},
          {"special", special},
          {"normalized", false},
          {"lstrip", false},
          {"rstrip", false},
          {"single_word", false}};
}

// Byte level: 256 bytes, trained merges, <|bos|>, <|end|> and the ordinary added token <think>.
inline Json byte_level(const std::string& expression = R"(\p{N}| ?\p{L}+|[^\p{N}\p{L}]+)") {
  Json vocab = Json::object(), merges = Json::array();
  int next = 0;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[bisup::text::bytes_to_alphabet(std::string(1, static_cast<char>(byte)))] = next++;
  }
  for (const auto& [left, right] : train(true, 60)) {
    if (!vocab.contains(left + right)) vocab[left + right] = next++;
    merges.push_back(Json::array({left, right}));
  }
  Json root;
  root["added_tokens"] = {added(next, "<|bos|>", true), added(next + 1, "<|end|>", true),
                          added(next + 2, "<think>", false)};
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern", {{"Regex", expression}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  root["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|bos|>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens",
       {{"<|bos|>", {{"id", "<|bos|>"}, {"ids", {next}}, {"tokens", {"<|bos|>"}}}}}}};
  root["decoder"] = {{"type", "ByteLevel"}};
  root["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}};
  return root;
}

// SentencePiece-style: <unk>, <s>, </s>, 256 named bytes, characters and trained merges.
inline Json sentence_piece() {
  Json vocab = Json::object(), merges = Json::array();
  int next = 0;
  for (const char* name : {"<unk>", "<s>", "</s>"}) vocab[name] = next++;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[bisup::text::byte_name(static_cast<unsigned char>(byte))] = next++;
  }
  for (char c = '!'; c <= '~'; ++c) vocab[std::string(1, c)] = next++;
  for (const auto& one : symbols(lore, false)) {
    if (one != " " && !vocab.contains(one)) vocab[one] = next++;
  }
  vocab["\u2581"] = next++;
  for (const auto& [left, right] : train(false, 80)) {
    if (!vocab.contains(left + right)) vocab[left + right] = next++;
    merges.push_back(left + " " + right);
  }
  Json root;
  root["added_tokens"] = {added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)};
  root["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "\u2581"}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}};
  root["pre_tokenizer"] = nullptr;
  root["post_processor"] = nullptr;
  root["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  root["model"] = {{"type", "BPE"},    {"unk_token", "<unk>"}, {"byte_fallback", true},
                   {"fuse_unk", true}, {"vocab", vocab},       {"merges", merges}};
  return root;
}

// Valid UTF-8 in which everything that splitting cares about meets everything else.
inline std::string awkward_text(bisup::Random& random, std::size_t pieces) {
  static const std::vector<std::string> parts = {"a",
                                                 "the",
                                                 "Z",
                                                 "s",
                                                 "'",
                                                 "'s",
                                                 "'LL",
                                                 "'\u017f",
                                                 "\u2019t",
                                                 " ",
                                                 " ",
                                                 "  ",
                                                 "\n",
                                                 "\r\n",
                                                 "\t",
                                                 "\u0085",
                                                 "\u00a0",
                                                 "\u2028",
                                                 "\u3000",
                                                 "0",
                                                 "12",
                                                 "\u0663",
                                                 "\u00b2",
                                                 "\u2167",
                                                 ".",
                                                 "!?",
                                                 "_",
                                                 "$",
                                                 "\u00e9",
                                                 "e\u0301",
                                                 "\u0323",
                                                 "\u4f60\u597d",
                                                 "\u0915\u093f",
                                                 "\u0e01\u0e33",
                                                 "\u1100\u1161\u11a8",
                                                 "\uac00\u11a8",
                                                 "\U0001F600",
                                                 "\U0001F468\u200d\U0001F469",
                                                 "\U0001D7D8",
                                                 "\u212b",
                                                 "\ufeff",
                                                 std::string("\0", 1),
                                                 "<|end|>",
                                                 "<|en",
                                                 "<think>",
                                                 "<s>"};
  std::string text;
  for (std::size_t i = 0; i < pieces; ++i) {
    text += parts[random.below(static_cast<std::uint32_t>(parts.size()))];
  }
  return text;
}

inline std::string random_bytes(bisup::Random& random, std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(random.below(256));
  return bytes;
}

}  // namespace tiny
