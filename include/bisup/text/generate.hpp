// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a prompt become an answer? generate() samples token after token and hands out text as
// soon as it is certain, until the model ends its turn, a stop string appears or there is no more
// room.

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

#include <bisup/core/result.hpp>
#include <bisup/llama/sampler.hpp>
#include <bisup/llama/session.hpp>
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
  int tokens = 256;                     // at most
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

// Continues after the session's tokens and `prompt`. The last token of the answer may not be in the
// session. Errors: cache_full if there is no room for the prompt and one token, not_finite if the
// model answers with numbers that are none, out_of_range for ids outside its vocabulary.
inline Result<Generation> generate(llama::Session& session, std::span<const int> prompt,
                                   const Tokenizer& tokenizer, const GenerateOptions& options,
                                   const Emit& emit) {
  BISUP_EXPECTS(!prompt.empty());
  if (auto known = llama::check_ids(prompt, session.model().config); !known) return known.error();
  if (options.rolls && !session.can_roll(options.sinks)) {
    return Error{Errc::cache_full, "a context of " + std::to_string(session.capacity()) +
                                       " tokens is too short to roll on in"};
  }
  int room = session.capacity() - session.size() - static_cast<int>(prompt.size());
  std::vector<int> rolled;
  if (room < 0 && options.rolls) {
    std::vector<int> all(session.ids().begin(), session.ids().end());
    all.insert(all.end(), prompt.begin(), prompt.end());
    rolled = session.rolled(all, options.sinks);
    session.truncate(0);
    prompt = rolled;
    room = session.capacity() - session.size() - static_cast<int>(prompt.size());
  }
  if (room < 0) {
    return Error{Errc::cache_full, "the prompt has " + std::to_string(prompt.size()) +
                                       " tokens; there is room for " +
                                       std::to_string(session.capacity() - session.size())};
  }
  llama::Sampler sampler(options.sampling);
  Decoder decoder(tokenizer);
  StopStrings stops(options.stops);
  Generation result;
  std::vector<int> history(prompt.begin(), prompt.end());
  std::span<const float> logits = session.next_logits(prompt);
  // The last token needs no room: it is shown, not read again.
  const int most = options.rolls ? options.tokens : std::min(options.tokens, room + 1);
  for (int left = most; left > 0; --left) {
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      return Error{Errc::not_finite, "the model's logits are not finite"};
    }
    const int id = sampler.sample(logits, history);
    if (std::find(options.eos.begin(), options.eos.end(), id) != options.eos.end()) {
      result.finish = Finish::eos;
      break;
    }
    result.ids.push_back(id), history.push_back(id);
    if (!emit(stops.push(decoder.push(id)))) return result.finish = Finish::interrupted, result;
    if (stops.found()) return result.finish = Finish::stop, result;
    if (left > 1 && session.size() == session.capacity()) session.roll(options.sinks);
    if (left > 1) logits = session.next_logits(std::span(&id, 1));
  }
  emit(stops.push(decoder.finish()));
  if (stops.found()) {
    result.finish = Finish::stop;
  } else {
    emit(stops.finish());
  }
  return result;
}

}  // namespace bisup::text
