// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a prompt become an answer? generate() reads it in a session and lets the session read
// what it says, token after token, until the answer ends or there is no more room.

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/llama/session.hpp>
#include <bisup/text/continuation.hpp>
#include <bisup/text/tokenizer.hpp>

namespace bisup::text {

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
  // The last token needs no room: it is shown, not read again.
  const int most = options.rolls ? options.tokens : std::min(options.tokens, room + 1);
  Continuation answer(tokenizer, options, prompt, most);
  for (std::span<const float> logits = session.next_logits(prompt);;) {
    const auto more = answer.read(logits, emit);
    if (!more) return more.error();
    if (!*more) return answer.take();
    if (session.size() == session.capacity()) session.roll(options.sinks);
    logits = session.next_logits(std::span(&answer.last(), 1));
  }
}

}  // namespace bisup::text
