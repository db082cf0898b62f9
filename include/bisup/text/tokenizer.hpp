// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does text become token ids and come back? Tokenizer is the whole way: added tokens,
// normalizer, pre-tokenizer, byte pair encoding, what is put around it; Decoder is the way back, id
// by id. Files are read in tokenizer_json.hpp and tokenizer_gguf.hpp, declared here as from_json
// and from_gguf.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/result.hpp>
#include <bisup/text/added_tokens.hpp>
#include <bisup/text/bpe.hpp>
#include <bisup/text/detokenizer.hpp>
#include <bisup/text/normalizer.hpp>
#include <bisup/text/pre_tokenizer.hpp>
#include <bisup/text/unicode.hpp>
#include <bisup/text/vocabulary.hpp>

namespace bisup::io {
class Gguf;
}

namespace bisup::text {

// A stretch of a conversation: markup, written by the template, or what somebody said.
struct Segment {
  std::string text;
  bool is_markup = false;

  friend bool operator==(const Segment&, const Segment&) = default;
};

struct EncodeOptions {
  bool parse_special = true;  // read special tokens where the text spells them
  bool add_special = true;    // put around the text what the tokenizer does, such as BOS
};

// What a Tokenizer is made of.
struct TokenizerParts {
  std::string where;  // the file, for errors
  Vocabulary vocabulary;
  AddedTokens added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  Detokenizer detokenizer;
  std::vector<int> prefix, suffix;  // put around a text
  int bos = no_token;
  std::vector<int> eos;
};

// A handle: copies share the tables. Any number of threads may use it at once.
class Tokenizer {
 public:
  [[nodiscard]] static Result<Tokenizer> from_json(const std::filesystem::path& path);
  [[nodiscard]] static Result<Tokenizer> from_json_text(std::string_view json,
                                                        const std::string& where);
  [[nodiscard]] static Result<Tokenizer> from_gguf(const io::Gguf& file);

  explicit Tokenizer(TokenizerParts parts) : state_(std::make_shared<State>(std::move(parts))) {
    for (const AddedToken& token : state_->added.tokens()) {
      if (!token.special) continue;
      const auto id = static_cast<std::size_t>(token.id);
      if (id >= state_->special.size()) state_->special.resize(id + 1);
      state_->special[id] = true;
    }
  }

  // The ids of a text; bytes that are not UTF-8 count as U+FFFD. Fails only if a regular expression
  // of the tokenizer gives up, or at 2 GiB.
  [[nodiscard]] Result<std::vector<int>> encode(std::string_view text,
                                                EncodeOptions options = {}) const {
    const TrustedRange everything;
    const auto trusted = std::span(&everything, options.parse_special ? 1 : 0);
    return encode_trusted(text, AddedTokens::Stage::raw, trusted, options.add_special);
  }

  // The ids of a conversation. Special tokens are read in markup only, however the rest is spelled;
  // otherwise it is one text, so words form across the seams as they do for other implementations.
  // Nothing is put around it: templates write BOS themselves.
  [[nodiscard]] Result<std::vector<int>> encode(std::span<const Segment> segments) const {
    std::string text;
    std::vector<TrustedRange> trusted;
    for (const Segment& segment : segments) {
      const std::size_t begin = text.size();
      text += is_valid_utf8(segment.text) ? segment.text : replace_invalid_utf8(segment.text);
      if (segment.is_markup && begin < text.size()) trusted.push_back({begin, text.size()});
    }
    return encode_trusted(text, AddedTokens::Stage::literal, trusted, false);
  }

  // The text of the ids. Ids that are no tokens, and special ones unless `show_special`, add
  // nothing.
  [[nodiscard]] std::string decode(std::span<const int> ids, bool show_special = false) const;

  // One more than the largest id.
  [[nodiscard]] int vocab_size() const noexcept { return state_->vocabulary.size(); }
  // As the file spells it; empty if there is no such token.
  [[nodiscard]] std::string_view token(int id) const { return state_->vocabulary.token(id); }
  // no_token if no token is spelled so.
  [[nodiscard]] int find(std::string_view token) const { return state_->vocabulary.find(token); }
  [[nodiscard]] bool is_special(int id) const {
    return id >= 0 && static_cast<std::size_t>(id) < state_->special.size() &&
           state_->special[static_cast<std::size_t>(id)];
  }
  // no_token if the file names none. A tokenizer.json names it only by putting it in front.
  [[nodiscard]] int bos() const noexcept { return state_->bos; }
  // Those the file names: none in a tokenizer.json (generation_config.json has them).
  [[nodiscard]] const std::vector<int>& eos() const noexcept { return state_->eos; }
  [[nodiscard]] bool adds_bos() const noexcept {
    return state_->bos != no_token && !state_->prefix.empty() &&
           state_->prefix.front() == state_->bos;
  }
  [[nodiscard]] const Detokenizer& detokenizer() const noexcept { return state_->detokenizer; }

 private:
  struct State : TokenizerParts {
    explicit State(TokenizerParts parts) : TokenizerParts(std::move(parts)) {}
    std::vector<bool> special;
    std::mutex mutex;
    std::vector<std::unique_ptr<BpeScratch>>
        idle;  // as many as threads ever were in encode() at once
  };

  // Takes an idle scratch for the length of a call, so its cache of words outlives the call.
  class Borrowed {
   public:
    explicit Borrowed(State& state) : state_(state) {
      const std::lock_guard lock(state_.mutex);
      if (!state_.idle.empty()) {
        scratch_ = std::move(state_.idle.back());
        state_.idle.pop_back();
      }
      if (scratch_ == nullptr) scratch_ = std::make_unique<BpeScratch>();
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    ~Borrowed() {
      const std::lock_guard lock(state_.mutex);
      state_.idle.push_back(std::move(scratch_));
    }
    [[nodiscard]] BpeScratch& operator*() const { return *scratch_; }

   private:
    State& state_;
    std::unique_ptr<BpeScratch> scratch_;
  };

  [[nodiscard]] Result<std::vector<int>> encode_trusted(std::string_view text,
                                                        AddedTokens::Stage stage,
                                                        std::span<const TrustedRange> trusted,
                                                        bool add_special) const {
    std::string repaired;
    if (!is_valid_utf8(text)) text = repaired = replace_invalid_utf8(text);
    if (text.size() >= (std::size_t{1} << 31)) {
      return Error{Errc::out_of_range, "a text of 2 GiB or more cannot be tokenized at once"};
    }
    const State& state = *state_;
    const Borrowed scratch(*state_);
    std::vector<int> ids;
    ids.reserve(text.size() / 3 + 8);
    if (add_special) ids = state.prefix;
    const auto encode_words = [&](std::string_view piece, int id, bool at_start) {
      if (id != no_token) return ids.push_back(id), true;
      return state.pre_tokenizer.split(
          piece, at_start, [&](std::string_view word) { state.bpe.encode(word, *scratch, ids); });
    };
    const auto normalize_piece = [&](std::string_view piece, int id) {
      const bool at_start = piece.data() == text.data();
      if (id != no_token) return encode_words(piece, id, at_start);
      std::string normal;
      if (!state.normalizer.empty()) {
        normal = piece;
        if (!state.normalizer.apply(normal)) return false;
        piece = normal;
      }
      // In a conversation every special token has been found as it is spelled.
      const auto second =
          stage == AddedTokens::Stage::literal ? std::span<const TrustedRange>() : trusted;
      return state.added.split(
          piece, AddedTokens::Stage::normalized, second, [&](std::string_view part, int part_id) {
            return encode_words(part, part_id, at_start && part.data() == piece.data());
          });
    };
    if (!state.added.split(text, stage, trusted, normalize_piece)) {
      return Error{Errc::unsupported, "a pattern of the tokenizer gave up on this text",
                   state.where};
    }
    if (add_special) ids.insert(ids.end(), state.suffix.begin(), state.suffix.end());
    return ids;
  }

  std::shared_ptr<State> state_;
};

// Ids in, text out, as they come: each push() returns what is certain by now.
class Decoder {
 public:
  explicit Decoder(Tokenizer tokenizer, bool show_special = false)
      : tokenizer_(std::move(tokenizer)),
        show_special_(show_special),
        strips_left_(tokenizer_.detokenizer().rules().strip.start) {}

  [[nodiscard]] std::string push(int id) {
    if (tokenizer_.token(id).empty() || (!show_special_ && tokenizer_.is_special(id))) return {};
    const DetokenizerRules& rules = tokenizer_.detokenizer().rules();
    std::string bytes(tokenizer_.detokenizer().bytes(id));
    if (!std::exchange(begun_, true)) {
      const std::string& dropped = rules.dropped_in_first;
      for (std::size_t at = 0; !dropped.empty() && (at = bytes.find(dropped, at)) != bytes.npos;) {
        bytes.erase(at, dropped.size());
      }
    } else {
      bytes.insert(0, rules.separator);
    }
    while (strips_left_ > 0 && !bytes.empty()) {
      if (!bytes.starts_with(rules.strip.content)) {
        strips_left_ = 0;
        break;
      }
      bytes.erase(0, rules.strip.content.size());
      --strips_left_;
    }
    return stream_.push(bytes);
  }

  // What is held back: an unfinished character, as U+FFFD. The decoder is new again.
  [[nodiscard]] std::string finish() {
    begun_ = false;
    strips_left_ = tokenizer_.detokenizer().rules().strip.start;
    return stream_.finish();
  }

 private:
  Tokenizer tokenizer_;
  bool show_special_;
  bool begun_ = false;
  int strips_left_;
  Utf8Stream stream_;
};

inline std::string Tokenizer::decode(std::span<const int> ids, bool show_special) const {
  Decoder decoder(*this, show_special);
  std::string text;
  for (const int id : ids) text += decoder.push(id);
  return text += decoder.finish();
}

}  // namespace bisup::text
