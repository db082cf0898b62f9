// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are many requests answered at once? By continuous batching (Orca, OSDI 2022): each step() is
// one forward pass over the next token of every answer and a piece of the prompts that are not read
// yet, so that a long one holds up the others by no more than a piece (chunked prefill:
// Sarathi-Serve, arXiv 2403.02310).

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/result.hpp>
#include <bisup/llama/sequences.hpp>
#include <bisup/text/continuation.hpp>
#include <bisup/text/tokenizer.hpp>

namespace bisup::text {

struct ContinuousBatchOptions {
  int capacity = 4096;  // tokens of a request and its answer, behind the stored prompt
  int together = 4;     // requests that are answered at once; others wait for their turn
  int kept = 4;         // answered ones that a later request may begin with, while there is room
  int piece = 256;      // tokens of requests that a step reads
};

struct Reply {
  Generation generation;
  int known = 0;  // tokens of the request that an earlier one had left in the cache
};

// Who asks is asked for nothing but what to do with the answer: both functions are called by
// step().
struct Request {
  std::vector<int> ids;  // at least one; without those of the stored prompt
  GenerateOptions options;
  Emit emit;  // called with nothing to learn whether anybody still listens
  std::function<void(Result<Reply>)> done;
};

class ContinuousBatch {
 public:
  // `model` must outlive it. Errors: those of llama::Sequences::make.
  static Result<ContinuousBatch> make(const llama::Model& model, Tokenizer tokenizer,
                                      const KvPolicy& policy, const ContinuousBatchOptions& options,
                                      ThreadPool& pool = ThreadPool::shared()) {
    BISUP_EXPECTS(options.together >= 1 && options.kept >= 0 && options.piece >= 1);
    const int capacity = model.prompt.tokens() + options.capacity;
    // What is kept lives in the room that shorter answers leave.
    const KvPoolSize size{.sequences = options.together + options.kept,
                          .tokens = options.together * capacity};
    auto sequences = llama::Sequences::make(model, capacity, policy, size, pool);
    if (!sequences) return sequences.error();
    return ContinuousBatch(model, std::move(tokenizer), std::move(sequences).value(), options);
  }

  // Can this be asked? Any thread may ask that. Errors: too_short without tokens, cache_full if
  // there is no room for them, out_of_range for ids outside the vocabulary.
  [[nodiscard]] Result<void> check(std::span<const int> ids) const {
    if (ids.empty()) return Error{Errc::too_short, "the prompt has no tokens"};
    if (ids.size() > static_cast<std::size_t>(options_.capacity)) {
      return Error{Errc::cache_full, "the prompt has " + std::to_string(ids.size()) +
                                         " tokens; there is room for " +
                                         std::to_string(options_.capacity)};
    }
    return llama::check_ids(ids, model_->config);
  }
  // Precondition: check(request.ids).
  void add(Request request) {
    BISUP_EXPECTS(check(request.ids) && request.options.tokens >= 1);
    BISUP_EXPECTS(!request.options.rolls && request.emit && request.done);
    waiting_.push_back(std::move(request));
  }
  [[nodiscard]] int waiting() const noexcept { return static_cast<int>(waiting_.size()); }
  [[nodiscard]] int running() const noexcept { return static_cast<int>(live_.size()); }

  // Goes on with all that was asked by one token each. Returns whether there is more to do.
  bool step() {
    for (Live& live : live_) {
      if (live.request.emit({})) continue;
      live.answer.interrupt();
      end(live);
    }
    forget_ended();
    begin_waiting();
    nexts_.clear(), asked_.clear();
    int left = options_.piece;
    for (Live& live : live_) {
      std::span<const int> ids(&live.answer.last(), 1);
      if (live.unread() > 0) {
        const int count = std::min(live.unread(), left);
        ids = std::span(live.request.ids).subspan(live.read, static_cast<std::size_t>(count));
        left -= count;
      }
      if (ids.empty()) continue;
      nexts_.push_back({live.sequence, ids});
      asked_.push_back(&live);
    }
    if (nexts_.empty()) return false;
    const auto logits = sequences_.forward(nexts_);
    for (std::size_t i = 0; i < asked_.size(); ++i) {
      Live& live = *asked_[i];
      if (!logits) {
        fail(live, logits.error());
        continue;
      }
      if (live.unread() > 0) live.read += nexts_[i].ids.size();
      if (live.unread() > 0) continue;
      const auto more = live.answer.read(logits->row(static_cast<int>(i)), live.request.emit);
      if (!more) fail(live, more.error());
      if (more && !*more) end(live);
    }
    forget_ended();
    return !live_.empty() || !waiting_.empty();
  }

 private:
  struct Live {
    Request request;
    Continuation answer;
    int sequence = 0, known = 0;
    std::size_t read = 0;  // tokens of the request
    bool ended = false;

    [[nodiscard]] int unread() const { return static_cast<int>(request.ids.size() - read); }
  };

  ContinuousBatch(const llama::Model& model, Tokenizer tokenizer, llama::Sequences sequences,
                  const ContinuousBatchOptions& options)
      : model_(&model),
        tokenizer_(std::move(tokenizer)),
        sequences_(std::move(sequences)),
        options_(options) {}

  void begin_waiting() {
    while (running() < options_.together && !waiting_.empty()) {
      Request request = std::move(waiting_.front());
      waiting_.pop_front();
      if (!request.emit({})) {
        request.done(Reply{{{}, Finish::interrupted}});
        continue;
      }
      const auto sequence = sequences_.begin(request.ids);
      if (!sequence) {
        request.done(sequence.error());
        continue;
      }
      // The last token needs no room: it is shown, not read again.
      const int room = options_.capacity - static_cast<int>(request.ids.size());
      Continuation answer(tokenizer_, request.options, request.ids,
                          std::min(request.options.tokens, room + 1));
      const int known = sequences_.size(*sequence) - model_->prompt.tokens();
      live_.push_back({std::move(request), std::move(answer), *sequence, known,
                       static_cast<std::size_t>(known)});
    }
  }

  void fail(Live& live, const Error& error) {
    sequences_.end(live.sequence);
    live.ended = true;
    live.request.done(error);
  }
  // A later request may begin as this one did, and as its answer.
  void end(Live& live) {
    const int held = sequences_.size(live.sequence) - model_->prompt.tokens();
    if (options_.kept > 0) {
      (void)sequences_.keep(live.sequence,
                            live.answer.said().first(static_cast<std::size_t>(held)));
    }
    sequences_.end(live.sequence);
    live.ended = true;
    live.request.done(Reply{live.answer.take(), live.known});
  }
  void forget_ended() {
    std::erase_if(live_, [](const Live& live) { return live.ended; });
  }

  const llama::Model* model_;
  Tokenizer tokenizer_;
  llama::Sequences sequences_;
  ContinuousBatchOptions options_;
  std::deque<Request> waiting_;
  std::vector<Live> live_;
  std::vector<llama::Sequences::Next> nexts_;
  std::vector<Live*> asked_;  // whose row of logits is whose
};

}  // namespace bisup::text
