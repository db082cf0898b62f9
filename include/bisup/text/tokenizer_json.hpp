// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a tokenizer.json read? Vocabulary, merges, added tokens and post-processor here, the lists
// of components in pipeline_json.hpp. Its "truncation" and "padding" are about batches and are
// ignored.

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/json.hpp>
#include <bisup/text/byte_alphabet.hpp>
#include <bisup/text/json_reader.hpp>
#include <bisup/text/pipeline_json.hpp>
#include <bisup/text/tokenizer.hpp>

namespace bisup::text {

namespace detail {

inline Vocabulary read_vocabulary(JsonReader& reader, const Json& model) {
  Vocabulary vocabulary;
  for (const auto& [token, id] : reader.object(model, "vocab", "the model").items()) {
    const int number = reader.count(&id, "id of " + io::in_quotes(token), largest_token_id);
    if (reader.failed()) break;
    if (!vocabulary.add(number, token)) {
      reader.fail(Errc::malformed, "two tokens have the id " + std::to_string(number));
      break;
    }
  }
  if (!reader.failed() && vocabulary.size() == 0)
    reader.fail(Errc::malformed, "the vocabulary is empty");
  return vocabulary;
}

// The two halves of a merge: "left right", or a list of both.
inline std::pair<std::string_view, std::string_view> split_merge(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (!merge.is_string()) return {};
  const std::string_view both = merge.get_ref<const std::string&>();
  const std::size_t space = both.find(' ');
  if (space == both.npos || both.find(' ', space + 1) != both.npos) return {};
  return {both.substr(0, space), both.substr(space + 1)};
}

// Also collects which characters a merge may join; none if a merge has a byte's name or the unknown
// token in it, which are not made of the characters they are spelled with.
inline void read_merges(JsonReader& reader, const Json& model, const Vocabulary& vocabulary,
                        bool byte_fallback, BpeParts& parts) {
  const Json& merges = reader.array(model, "merges", "the model");
  parts.merges.reserve(merges.size());
  bool joints = parts.symbols == BpeParts::Symbols::characters;
  std::string joined;
  for (const Json& merge : merges) {
    const auto [left, right] = split_merge(merge);
    const std::string number = "merge " + std::to_string(parts.merges.size());
    if (left.empty() || right.empty()) {
      return reader.fail(Errc::malformed, number + " is not a pair of tokens");
    }
    joined.assign(left).append(right);
    const BpeMerge made = {vocabulary.find(left), vocabulary.find(right), vocabulary.find(joined),
                           static_cast<std::uint32_t>(parts.merges.size())};
    if (made.left == no_token || made.right == no_token || made.result == no_token) {
      const auto unknown = made.left == no_token ? left : made.right == no_token ? right : joined;
      return reader.fail(Errc::malformed,
                         number + " names " + io::in_quotes(unknown) + ", which is no token");
    }
    parts.merges.push_back(made);
    if (!joints) continue;
    const bool unknown = parts.unknown == made.left || parts.unknown == made.right;
    if (unknown || (byte_fallback && (named_byte(left) || named_byte(right)))) {
      joints = false;
      parts.joints.clear();
    } else {
      parts.joints.emplace_back(decode_utf8_before(left.data() + left.size()).value,
                                decode_utf8(right.data()).value);
    }
  }
}

inline void require_plain_bpe(JsonReader& reader, const Json& model) {
  const std::string type = reader.string(model, "type", "the model", "BPE");  // absent in old files
  if (type != "BPE") reader.fail(Errc::unsupported, "a model of type " + io::in_quotes(type));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!reader.string(model, key, "the model", "").empty()) {
      reader.fail(Errc::unsupported, std::string("a model with a ") + key);
    }
  }
  const Json* dropout = JsonReader::find(model, "dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0)) {
    reader.fail(Errc::unsupported, "a model with dropout");
  }
}

inline BpeParts read_bpe(JsonReader& reader, const Json& model, const Vocabulary& vocabulary,
                         bool byte_level) {
  BpeParts parts;
  parts.symbols = byte_level ? BpeParts::Symbols::bytes : BpeParts::Symbols::characters;
  const bool byte_fallback = reader.boolean(model, "byte_fallback", "the model", false);
  const bool whole_words = reader.boolean(model, "ignore_merges", "the model", false);
  parts.fuse_unknown = reader.boolean(model, "fuse_unk", "the model", false);
  const std::string unknown = reader.string(model, "unk_token", "the model", "");
  if (!unknown.empty()) {
    parts.unknown = vocabulary.find(unknown);
    if (parts.unknown == no_token) {
      reader.fail(Errc::malformed, "the unknown token " + io::in_quotes(unknown) + " is no token");
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto b = static_cast<unsigned char>(byte);
    parts.byte_ids[b] = no_token;
    if (byte_level) {
      parts.byte_ids[b] = vocabulary.find(bytes_to_alphabet(std::string(1, static_cast<char>(b))));
    } else if (byte_fallback) {
      parts.byte_ids[b] = vocabulary.find(byte_name(b));
    }
  }
  for (int id = 0; id < vocabulary.size() && (whole_words || !byte_level); ++id) {
    const std::string_view token = vocabulary.token(id);
    if (token.empty()) continue;
    const CodePoint first = decode_utf8(token.data());
    if (!byte_level && static_cast<std::size_t>(first.bytes) == token.size()) {
      parts.characters.emplace_back(first.value, id);
    }
    if (!whole_words) continue;
    const auto word = byte_level ? alphabet_to_bytes(token) : std::string(token);
    if (word) static_cast<void>(parts.whole_words.add(id, *word));  // the alphabet is one to one
  }
  read_merges(reader, model, vocabulary, byte_fallback, parts);
  return parts;
}

// Reads the added tokens and gives those that the model lacks a place in the vocabulary.
inline std::vector<AddedToken> read_added_tokens(JsonReader& reader, const Json& root,
                                                 Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  if (JsonReader::find(root, "added_tokens") == nullptr) return tokens;
  static constexpr std::string_view what = "an added token";
  for (const Json& one : reader.array(root, "added_tokens", "the file")) {
    AddedToken token;
    token.content = reader.string(one, "content", what);
    token.id = reader.count(one, "id", what, largest_token_id);
    token.special = reader.boolean(one, "special", what, false);
    token.normalized = reader.boolean(one, "normalized", what, !token.special);
    token.left_strip = reader.boolean(one, "lstrip", what, false);
    token.right_strip = reader.boolean(one, "rstrip", what, false);
    token.single_word = reader.boolean(one, "single_word", what, false);
    if (reader.failed()) break;
    if (token.content.empty()) continue;
    const int known = vocabulary.find(token.content);
    if (known != token.id && !vocabulary.add(token.id, token.content)) {
      reader.fail(Errc::malformed, "the added token " + io::in_quotes(token.content) +
                                       " has the id " + std::to_string(token.id) +
                                       " of another one, or two ids");
      break;
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// "single" of a TemplateProcessing: special tokens around the sequence A.
inline void read_template(JsonReader& reader, const Json& one, TokenizerParts& parts) {
  const std::string_view what = "TemplateProcessing";
  std::vector<int> prefix, suffix;
  bool behind = false;
  for (const Json& piece : reader.array(one, "single", what)) {
    if (const Json* sequence = JsonReader::find(piece, "Sequence")) {
      if (behind || reader.string(*sequence, "id", what) != "A") {
        reader.fail(Errc::malformed, "the template does not hold the text once");
      }
      behind = true;
      continue;
    }
    const std::string name = reader.string(reader.object(piece, "SpecialToken", what), "id", what);
    const Json& known = reader.object(one, "special_tokens", what);
    for (const Json& id : reader.array(reader.object(known, name.c_str(), what), "ids", what)) {
      const int number = reader.count(&id, "id of " + io::in_quotes(name), largest_token_id);
      if (!reader.failed() && !parts.vocabulary.contains(number)) {
        reader.fail(Errc::malformed,
                    "the template names the id " + std::to_string(number) + ", which is no token");
      }
      (behind ? suffix : prefix).push_back(number);
    }
  }
  if (!behind) reader.fail(Errc::malformed, "the template does not hold the text once");
  parts.prefix.insert(parts.prefix.begin(), prefix.begin(), prefix.end());
  parts.suffix.insert(parts.suffix.end(), suffix.begin(), suffix.end());
}

inline void read_post_processor(JsonReader& reader, const Json& root, TokenizerParts& parts) {
  const Json* member = JsonReader::find(root, "post_processor");
  if (member == nullptr) return;
  const auto read = [&](const Json& one, const std::string& type) {
    if (type == "TemplateProcessing") return read_template(reader, one, parts);
    if (type != "ByteLevel")
      refuse_type(reader, "a post-processor", type);  // it only moves offsets
  };
  for_each_component(reader, *member, "processors", "post-processor", read);
  if (!parts.prefix.empty()) parts.bos = parts.prefix.front();
}

}  // namespace detail

inline Result<Tokenizer> Tokenizer::from_json_text(std::string_view json,
                                                   const std::string& where) {
  auto parsed = io::parse_json(json, where, "the tokenizer");
  if (!parsed) return parsed.error();
  const Json& root = parsed.value();
  JsonReader reader(where);
  if (!root.is_object()) reader.fail(Errc::malformed, "the tokenizer is not a JSON object");
  TokenizerParts parts;
  parts.where = where;
  const Json& model = reader.object(root, "model", "the file");
  detail::require_plain_bpe(reader, model);
  if (!reader.failed()) parts.vocabulary = detail::read_vocabulary(reader, model);
  if (reader.failed()) return reader.error();
  parts.normalizer = detail::read_normalizer(reader, root);
  auto cut = detail::read_pre_tokenizer(reader, root);
  parts.pre_tokenizer = std::move(cut.pre_tokenizer);
  auto bpe = detail::read_bpe(reader, model, parts.vocabulary, cut.byte_level);
  auto added = detail::read_added_tokens(reader, root, parts.vocabulary);
  detail::read_post_processor(reader, root, parts);
  auto rules = detail::read_decoder(reader, root);
  if (reader.failed()) return reader.error();
  parts.bpe = Bpe(std::move(bpe));
  parts.detokenizer = Detokenizer(parts.vocabulary, std::move(rules));
  parts.added = AddedTokens(std::move(added),
                            [&](std::string& text) { return parts.normalizer.apply(text); });
  return Tokenizer(std::move(parts));
}

inline Result<Tokenizer> Tokenizer::from_json(const std::filesystem::path& path) {
  const auto text = io::read_text_file(path);
  if (!text) return text.error();
  return from_json_text(text.value(), path.string());
}

}  // namespace bisup::text
