// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is the tokenizer inside a GGUF file read? Its pre-tokenizer is only named
// (tokenizer.ggml.pre), so the names stand here with what llama.cpp means by them; one that does
// not is refused. A SentencePiece vocabulary has scores instead of merges: merges follow from them.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/gguf.hpp>
#include <bisup/io/json.hpp>
#include <bisup/text/byte_alphabet.hpp>
#include <bisup/text/tokenizer.hpp>

namespace bisup::text {

namespace detail {

// Values of tokenizer.ggml.token_type.
inline constexpr int gguf_normal = 1, gguf_unknown = 2, gguf_control = 3, gguf_user_defined = 4,
                     gguf_byte = 6;

struct GgufPreTokenizer {
  std::vector<PreTokenizer::Step> steps;
  bool whole_words = false;  // a word that is a token needs no merges
  bool adds_bos = false;     // unless the file says otherwise
};

inline Result<GgufPreTokenizer> gguf_pre_tokenizer(std::string_view name) {
  const auto any_of = [name](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const auto known = [](KnownPattern pattern) { return SplitStep{SplitPattern::known(pattern)}; };
  GgufPreTokenizer made;
  if (any_of({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})) {
    made.steps = {SplitStep{SplitPattern::characters(SplitPattern::Kind::numbers)},
                  known(KnownPattern::gpt2)};
  } else if (any_of({"gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "roberta-bpe"})) {
    made.steps = {known(KnownPattern::gpt2)};
  } else if (any_of({"llama3", "llama-v3", "llama-bpe", "falcon3"})) {
    made = {{known(KnownPattern::llama3_ascii)}, true, true};
  } else if (any_of({"dbrx", "smaug-bpe"})) {
    made.steps = {known(KnownPattern::llama3_ascii)};
  } else if (any_of({"qwen2", "stablelm2", "megrez", "deepseek-r1-qwen"})) {
    made.steps = {known(KnownPattern::qwen2_ascii)};
  } else if (name == "default") {
    for (const std::string_view expression :
         {std::string_view(R"([\p{P}$+<=>^~|]+)"), pattern::gpt2, std::string_view(R"(\p{N}+)"),
          std::string_view("[0-9][0-9][0-9]")}) {
      auto compiled = SplitPattern::regex(expression);
      if (!compiled) return compiled.error();
      made.steps.emplace_back(SplitStep{std::move(compiled).value()});
    }
  } else if (name == "tekken") {
    auto compiled =
        SplitPattern::regex(R"([^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|)"
                            R"([^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|)"
                            R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
    if (!compiled) return compiled.error();
    made = {{SplitStep{std::move(compiled).value()}}, true, true};
  } else {
    return Error{Errc::unsupported,
                 "the pre-tokenizer " + io::in_quotes(name) + " is not known here"};
  }
  return made;
}

// Reads the tokenizer's part of the metadata, remembering the first thing that is wrong.
class GgufTokenizerReader {
 public:
  explicit GgufTokenizerReader(const io::Gguf& file) : file_(file) {}

  [[nodiscard]] Result<Tokenizer> read() {
    const auto model = file_.string("tokenizer.ggml.model");
    if (!model) return model.error();
    if (*model != "gpt2" && *model != "llama") {
      fail(Errc::unsupported, "a tokenizer of the model " + io::in_quotes(*model));
    }
    const bool byte_level = *model == "gpt2";
    parts_.where = file_.path();
    read_vocabulary();
    if (!error_) read_special_ids();
    BpeParts bpe;
    if (!error_) bpe = byte_level ? read_byte_level() : read_sentence_piece();
    if (error_) return *error_;
    parts_.bpe = Bpe(std::move(bpe));
    add_tokens();
    return Tokenizer(std::move(parts_));
  }

 private:
  void fail(Errc code, std::string message) {
    if (!error_) error_ = Error{code, std::move(message), file_.path()};
  }
  // The value of a key that may be absent.
  template <class T>
  [[nodiscard]] T optional(std::string_view key, T fallback,
                           Result<T> (io::Gguf::*get)(std::string_view) const) {
    if (file_.find(key) == nullptr) return fallback;
    auto value = (file_.*get)(key);
    if (value) return std::move(value).value();
    fail(value.error().code, value.error().message);
    return fallback;
  }
  [[nodiscard]] bool flag(std::string_view key, bool fallback) {
    return optional<bool>(key, fallback, &io::Gguf::boolean);
  }
  [[nodiscard]] int special_id(std::string_view key, int fallback) {
    const auto id = optional<std::int64_t>(key, fallback, &io::Gguf::integer);
    // Files carry ids behind the vocabulary for tokens they do not have; that means none.
    return id >= 0 && id < parts_.vocabulary.size() ? static_cast<int>(id) : no_token;
  }
  [[nodiscard]] int type(int id) const { return types_[static_cast<std::size_t>(id)]; }

  void read_vocabulary() {
    const auto tokens = file_.strings("tokenizer.ggml.tokens");
    if (!tokens) return fail(tokens.error().code, tokens.error().message);
    if (tokens->empty() || tokens->size() > static_cast<std::size_t>(largest_token_id)) {
      return fail(Errc::malformed, "a vocabulary of " + std::to_string(tokens->size()) + " tokens");
    }
    for (std::size_t id = 0; id < tokens->size(); ++id) {
      // An empty name is a hole; llama.cpp keeps the last of two alike, a model has none such.
      const std::string_view token = tokens.value()[id];
      const std::string place = "token " + std::to_string(id);
      if (!is_valid_utf8(token)) return fail(Errc::malformed, place + " is not UTF-8");
      const std::string text =
          token.empty() ? "[EMPTY_" + std::to_string(id) + "]" : std::string(token);
      if (!parts_.vocabulary.add(static_cast<int>(id), text)) {
        return fail(Errc::malformed, place + " is spelled like another: " + io::in_quotes(text));
      }
    }
    types_.assign(tokens->size(), gguf_normal);
    if (file_.find("tokenizer.ggml.token_type") == nullptr) return;
    const auto types = file_.integers("tokenizer.ggml.token_type");
    if (!types) return fail(types.error().code, types.error().message);
    if (types->size() != types_.size())
      return fail(Errc::malformed, "not one token_type for each token");
    for (std::size_t id = 0; id < types_.size(); ++id)
      types_[id] = static_cast<int>(types.value()[id]);
  }

  void read_special_ids() {
    const bool sentence_piece = file_.string("tokenizer.ggml.model").value() == "llama";
    parts_.bos = special_id("tokenizer.ggml.bos_token_id", sentence_piece ? 1 : no_token);
    const int eos = special_id("tokenizer.ggml.eos_token_id", sentence_piece ? 2 : no_token);
    unknown_ = special_id("tokenizer.ggml.unknown_token_id", sentence_piece ? 0 : no_token);
    const auto ends = [this](int id) {
      if (id != no_token &&
          std::find(parts_.eos.begin(), parts_.eos.end(), id) == parts_.eos.end()) {
        parts_.eos.push_back(id);
      }
    };
    ends(eos);
    ends(special_id("tokenizer.ggml.eot_token_id", no_token));
    // Files rarely name the token that ends a turn, so it is known by its spelling.
    for (const std::string_view text :
         {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"}) {
      const int id = parts_.vocabulary.find(text);
      if (id != no_token && type(id) == gguf_control) ends(id);
    }
    eos_ = eos;
  }

  void put_around(bool adds_bos) {
    if (flag("tokenizer.ggml.add_bos_token", adds_bos) && parts_.bos != no_token)
      parts_.prefix = {parts_.bos};
    if (flag("tokenizer.ggml.add_eos_token", false) && eos_ != no_token) parts_.suffix = {eos_};
  }

  [[nodiscard]] BpeParts read_byte_level() {
    BpeParts bpe;
    // llama.cpp, too, reads a file that names none as "default".
    auto cut = gguf_pre_tokenizer(
        optional<std::string_view>("tokenizer.ggml.pre", "default", &io::Gguf::string));
    if (!cut) return fail(cut.error().code, cut.error().message), bpe;
    put_around(cut->adds_bos);
    parts_.pre_tokenizer = PreTokenizer(std::move(cut->steps));
    for (std::size_t byte = 0; byte < 256; ++byte) {
      bpe.byte_ids[byte] =
          parts_.vocabulary.find(bytes_to_alphabet(std::string(1, static_cast<char>(byte))));
    }
    for (int id = 0; cut->whole_words && id < parts_.vocabulary.size(); ++id) {
      const auto word = alphabet_to_bytes(parts_.vocabulary.token(id));
      if (word) static_cast<void>(bpe.whole_words.add(id, *word));
    }
    const auto merges = file_.strings("tokenizer.ggml.merges");
    if (!merges) return fail(merges.error().code, merges.error().message), bpe;
    std::string joined;
    for (const std::string_view merge : merges.value()) {
      const std::size_t space = merge.find(' ', 1);
      const std::string number = "merge " + std::to_string(bpe.merges.size());
      if (space == merge.npos || space + 1 == merge.size()) {
        return fail(Errc::malformed, number + " is not a pair of tokens"), bpe;
      }
      joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
      const auto& known = parts_.vocabulary;
      const BpeMerge made = {known.find(merge.substr(0, space)),
                             known.find(merge.substr(space + 1)), known.find(joined),
                             static_cast<std::uint32_t>(bpe.merges.size())};
      if (made.left == no_token || made.right == no_token || made.result == no_token) {
        return fail(Errc::malformed,
                    number + ", " + io::in_quotes(merge) + ", names what is no token"),
               bpe;
      }
      bpe.merges.push_back(made);
    }
    rules_.steps.emplace_back(ByteLevelDecoding{});
    return bpe;
  }

  // SentencePiece merges the two neighbours that make the token of the highest score. So each way
  // to cut a token in two symbols is a merge, and equal scores share a rank.
  [[nodiscard]] BpeParts read_sentence_piece() {
    BpeParts bpe;
    bpe.symbols = BpeParts::Symbols::characters;
    bpe.unknown = unknown_;
    const auto scores = file_.numbers("tokenizer.ggml.scores");
    if (!scores) return fail(scores.error().code, scores.error().message), bpe;
    if (scores->size() != types_.size())
      return fail(Errc::malformed, "not one score for each token"), bpe;
    std::vector<float> order = scores.value();
    if (std::any_of(order.begin(), order.end(), [](float score) { return score != score; })) {
      return fail(Errc::not_finite, "a score that is no number"), bpe;
    }
    std::sort(order.begin(), order.end(), std::greater<>());
    order.erase(std::unique(order.begin(), order.end()), order.end());

    bpe.byte_ids.fill(no_token);
    std::map<char32_t, int> symbols;  // every character of a token, also those that are no token
    bpe.first_unnamed = parts_.vocabulary.size();
    for (int id = 0; id < parts_.vocabulary.size(); ++id) {
      const std::string_view token = parts_.vocabulary.token(id);
      if (const auto byte = named_byte(token); byte && type(id) == gguf_byte) {
        bpe.byte_ids[*byte] = id;
      } else if (const CodePoint c = decode_utf8(token.data());
                 static_cast<std::size_t>(c.bytes) == token.size()) {
        bpe.characters.emplace_back(c.value, id);
        symbols[c.value] = id;
      }
    }
    const auto symbol = [&](std::string_view text) {
      const CodePoint c = decode_utf8(text.data());
      if (static_cast<std::size_t>(c.bytes) < text.size()) return parts_.vocabulary.find(text);
      const auto [at, fresh] =
          symbols.emplace(c.value, bpe.first_unnamed + static_cast<int>(bpe.unnamed.size()));
      if (fresh) bpe.unnamed.push_back(c.value);
      return at->second;
    };
    for (int id = 0; id < parts_.vocabulary.size(); ++id) {
      const std::string_view token = parts_.vocabulary.token(id);
      if (type(id) == gguf_byte) continue;
      const auto place =
          std::lower_bound(order.begin(), order.end(), scores.value()[static_cast<std::size_t>(id)],
                           std::greater<>());
      const auto rank = static_cast<std::uint32_t>(place - order.begin());
      for (std::size_t at = static_cast<std::size_t>(decode_utf8(token.data()).bytes);
           at < token.size();) {
        const CodePoint before = decode_utf8_before(token.data() + at),
                        behind = decode_utf8(token.data() + at);
        bpe.joints.emplace_back(before.value, behind.value);
        const int left = symbol(token.substr(0, at)), right = symbol(token.substr(at));
        if (left != no_token && right != no_token) bpe.merges.push_back({left, right, id, rank});
        at += static_cast<std::size_t>(behind.bytes);
      }
    }
    put_around(true);
    static constexpr const char* space = "\xE2\x96\x81";  // U+2581
    std::vector<Normalizer::Step> steps;
    const bool prefix = flag("tokenizer.ggml.add_space_prefix", true);
    if (prefix) steps.emplace_back(PrependStep{space});
    steps.emplace_back(ReplaceStep{SplitPattern::literal(" "), space});
    parts_.normalizer = Normalizer(std::move(steps));
    rules_.steps.emplace_back(ReplaceDecoding{SplitPattern::literal(space), " "});
    rules_.steps.emplace_back(ByteFallbackDecoding{});
    if (prefix) rules_.strip = {" ", 1};
    return bpe;
  }

  // Control and unknown tokens are special, user-defined ones are read in any text.
  void add_tokens() {
    std::vector<AddedToken> added;
    for (int id = 0; id < parts_.vocabulary.size(); ++id) {
      const bool special = type(id) == gguf_control || type(id) == gguf_unknown;
      if (!special && type(id) != gguf_user_defined) continue;
      AddedToken token;
      token.id = id;
      token.content = parts_.vocabulary.token(id);
      token.special = special;
      added.push_back(std::move(token));
    }
    parts_.added = AddedTokens(std::move(added), [](std::string&) { return true; });
    parts_.detokenizer = Detokenizer(parts_.vocabulary, std::move(rules_));
  }

  const io::Gguf& file_;
  TokenizerParts parts_;
  DetokenizerRules rules_;
  std::vector<int> types_;
  int unknown_ = no_token;
  int eos_ = no_token;
  std::optional<Error> error_;
};

}  // namespace detail

inline Result<Tokenizer> Tokenizer::from_gguf(const io::Gguf& file) {
  return detail::GgufTokenizerReader(file).read();
}

}  // namespace bisup::text
