// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does an answer say after each token? A Continuation draws tokens from logits and hands out
// text as soon as it is certain, until the model ends its turn, a stop string appears or the answer
// is as long as it may be.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/result.hpp>
#include <bisup/llama/sampler.hpp>
#include <bisup/text/tokenizer.hpp>

namespace bisup::text {

// Holds back what may be the beginning of a stop string.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops = {}) : stops_(std::move(stops)) {
    std::erase(stops_, std::string());
  }

  // What of the text so far can be shown.
  [[nodiscard]] std::string push(std::string_view text) {
    held_ += text;
    std::size_t end = held_.npos;
    for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
    if (end != held_.npos) {
      found_ = true;
      held_.resize(end);
      return std::exchange(held_, {});
    }
    std::size_t keep = 0;
    for (const std::string& stop : stops_) {
      for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, length)))
          keep = length;
      }
    }
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, shown.size());
    return shown;
  }
  [[nodiscard]] bool found() const noexcept { return found_; }
  // What was held back for nothing.
  [[nodiscard]] std::string finish() { return std::exchange(held_, {}); }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

struct GenerateOptions {
  int tokens = 256;                     // at most, and at least one
  std::vector<std::string> stops = {};  // end before the first of these
  llama::SamplingOptions sampling = {};
  std::vector<int> eos = {};  // end at any of these
  // When the session is full, go on with its first `sinks` tokens and the newest ones
  // (Session::roll) instead of ending; a prompt that does not fit is cut in the same way.
  bool rolls = false;
  int sinks = 4;
};

enum class Finish : std::uint8_t { eos, stop, length, interrupted };

[[nodiscard]] constexpr const char* name(Finish finish) {
  switch (finish) {
    case Finish::eos: return "eos";
    case Finish::stop: return "stop";
    case Finish::length: return "length";
    case Finish::interrupted: return "interrupted";
  }
  return "?";
}

struct Generation {
  std::vector<int> ids;  // without the one that ended it
  Finish finish = Finish::length;
};

// Receives pieces of the answer, each valid UTF-8; returning false stops. It is called with an
// empty piece while text is held back.
using Emit = std::function<bool(std::string_view)>;

class Continuation {
 public:
  // Of a text of the tokens `prompt`, by at most `most` tokens, at least one: there may be room for
  // fewer than options.tokens.
  Continuation(const Tokenizer& tokenizer, const GenerateOptions& options,
               std::span<const int> prompt, int most)
      : sampler_(options.sampling),
        decoder_(tokenizer),
        stops_(options.stops),
        eos_(options.eos),
        left_(most),
        said_(prompt.begin(), prompt.end()) {
    BISUP_EXPECTS(most >= 1);
  }

  // Takes the logits after all that was said, [vocab]. Returns whether there is more to come: then
  // last() is what the model reads next. Errors: not_finite.
  [[nodiscard]] Result<bool> read(std::span<const float> logits, const Emit& emit) {
    BISUP_EXPECTS(left_ > 0);
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      return Error{Errc::not_finite, "the model's logits are not finite"};
    }
    const int id = sampler_.sample(logits, said_);
    if (std::find(eos_.begin(), eos_.end(), id) != eos_.end()) return end(Finish::eos, emit);
    result_.ids.push_back(id), said_.push_back(id);
    if (!emit(stops_.push(decoder_.push(id)))) return cut(Finish::interrupted);
    if (stops_.found()) return cut(Finish::stop);
    return --left_ > 0 ? true : end(Finish::length, emit);
  }

  // Ends the answer where it is.
  void interrupt() { cut(Finish::interrupted); }

  // The token said last, of the prompt if there is none of the answer.
  [[nodiscard]] const int& last() const noexcept { return said_.back(); }
  // Prompt and answer.
  [[nodiscard]] std::span<const int> said() const noexcept { return said_; }
  [[nodiscard]] Generation take() { return std::move(result_); }

 private:
  bool cut(Finish finish) {
    left_ = 0;
    result_.finish = finish;
    return false;
  }
  // With what was held back.
  bool end(Finish finish, const Emit& emit) {
    emit(stops_.push(decoder_.finish()));
    if (stops_.found()) return cut(Finish::stop);
    emit(stops_.finish());
    return cut(finish);
  }

  llama::Sampler sampler_;
  Decoder decoder_;
  StopStrings stops_;
  std::vector<int> eos_;
  int left_;
  std::vector<int> said_;
  Generation result_;
};

}  // namespace bisup::text
