// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a model run? A Session is one sequence: a key-value cache, the rotation table and scratch
// memory. forward() takes any number of tokens, so prefill and decode are one call.

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/llama/block.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::llama {

// Are these tokens the model's? A tokenizer that lies beside other weights can make ids that their
// vocabulary ends before. Errors: out_of_range.
[[nodiscard]] inline Result<void> check_ids(std::span<const int> ids, const Config& config) {
  for (const int id : ids) {
    if (id >= 0 && id < config.vocab_size) continue;
    return Error{Errc::out_of_range, "token " + std::to_string(id) + " is none of the model's " +
                                         std::to_string(config.vocab_size) +
                                         ": the tokenizer belongs to other weights"};
  }
  return {};
}

// The embeddings of tokens, [tokens, hidden].
template <class T>
void embed(const Model& model, std::span<const int> ids, MatrixRef<T> into) {
  BISUP_EXPECTS(ids.size() == static_cast<std::size_t>(into.rows()));
  const DenseView& table = model.embedding.view;
  for (int t = 0; t < into.rows(); ++t) {
    for (int c = 0; c < into.cols(); ++c) into(t, c) = table(ids[static_cast<std::size_t>(t)], c);
  }
}

// The stored prompt's positions come on top of the model's. Errors: out_of_range.
[[nodiscard]] inline Result<void> check_capacity(const Model& model, int capacity) {
  const int prompt = model.prompt.tokens();
  if (capacity >= 1 && capacity <= model.config.max_positions + prompt) return {};
  return Error{Errc::out_of_range,
               "a context of " + std::to_string(capacity) + " tokens; the model has " +
                   std::to_string(model.config.max_positions) + " positions" +
                   (prompt == 0 ? "" : " and a stored prompt of " + std::to_string(prompt))};
}

[[nodiscard]] inline CacheShape cache_shape(const Model& model, int capacity) {
  const Config& c = model.config;
  return {.layers = c.layers,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .capacity = capacity,
          .window = c.sliding_window.value_or(0)};
}

class Session {
 public:
  // As the model says: its own policy.
  static Result<Session> make(const Model& model, int capacity,
                              ThreadPool& pool = ThreadPool::shared()) {
    return make(model, capacity, model.kv, pool);
  }
  // `model` must outlive the session, which begins with the model's stored prompt. capacity: the
  // most tokens it will hold, the prompt included. Errors: out_of_memory, out_of_range (a capacity
  // beyond the model's positions; those of the prompt come on top), cache_full (the prompt alone
  // is longer), unknown_target.
  static Result<Session> make(const Model& model, int capacity, const KvPolicy& policy,
                              ThreadPool& pool = ThreadPool::shared()) {
    if (auto target = find_target(); !target) return target.error();
    if (auto fits = check_capacity(model, capacity); !fits) return fits.error();
    auto cache = KvCache::allocate(cache_shape(model, capacity), policy, model.prompt);
    if (!cache) return cache.error();
    return Session(model, std::move(cache).value(), RopeTable(model.config, capacity), pool);
  }

  // Tokens so far, the stored prompt's included: the position of the next one.
  [[nodiscard]] int size() const noexcept { return cache_.size(); }
  [[nodiscard]] int prompt_tokens() const noexcept { return cache_.prompt_tokens(); }
  [[nodiscard]] int capacity() const noexcept { return rope_.positions(); }
  [[nodiscard]] const KvCache& cache() const noexcept { return cache_; }
  [[nodiscard]] const Model& model() const noexcept { return *model_; }
  // Forgets all tokens after the first `tokens`, but never the stored prompt.
  void truncate(int tokens) {
    cache_.truncate(std::max(tokens, prompt_tokens()));
    ids_.resize(static_cast<std::size_t>(size() - prompt_tokens()));
  }
  // The tokens that it holds, without the stored prompt's.
  [[nodiscard]] std::span<const int> ids() const noexcept { return ids_; }
  // Makes room in a full session: the first `sinks` tokens and the newest half of what else it can
  // hold are read again, at positions that follow each other; the others are forgotten. Attention
  // leans on the first tokens whatever they say (Xiao et al. 2023).
  // Precondition: 0 <= sinks, and the capacity exceeds prompt and sinks by two.
  void roll(int sinks) {
    const std::vector<int> kept = rolled(ids_, sinks);
    if (kept.size() == ids_.size()) return;
    truncate(0);
    (void)forward(kept);
  }
  // What it would hold of `ids` after rolling: the first `sinks`, and the newest that fill half of
  // the rest; all of them if they are no more than that. The same precondition.
  [[nodiscard]] std::vector<int> rolled(std::span<const int> ids, int sinks) const {
    BISUP_EXPECTS(can_roll(sinks));
    const auto first = static_cast<std::size_t>(sinks);
    const auto last = static_cast<std::size_t>((capacity() - prompt_tokens() - sinks) / 2);
    if (ids.size() <= first + last) return {ids.begin(), ids.end()};
    std::vector<int> kept(ids.begin(), ids.begin() + sinks);
    kept.insert(kept.end(), ids.end() - static_cast<std::ptrdiff_t>(last), ids.end());
    return kept;
  }
  [[nodiscard]] bool can_roll(int sinks) const {
    return sinks >= 0 && capacity() - prompt_tokens() - sinks >= 2;
  }

  // Appends the tokens and returns their final hidden states, normed: [tokens, hidden]. They are
  // valid until the next call. Requires ids inside the vocabulary and room for them.
  template <class Observer = None>
  MatrixRef<const float> forward(std::span<const int> ids, Observer&& observe = {}) {
    const int tokens = static_cast<int>(ids.size()), first = cache_.size();
    BISUP_EXPECTS(tokens >= 1 && first + tokens <= capacity());
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    hidden_.resize(tokens, model_->config.hidden_size);
    embed(*model_, ids, hidden_.ref());
    const BlockShape shape = model_->block_shape();
    for (int layer = 0; layer < model_->config.layers; ++layer) {
      llama::forward(shape, model_->blocks[static_cast<std::size_t>(layer)], rope_, layer,
                     {first, tokens}, cache_, scratch_, *pool_, hidden_.ref(), observe);
    }
    rms_norm(hidden_.ref(), model_->final_norm, shape.norm_eps, hidden_.ref(), *pool_);
    return hidden_.ref();
  }

  // Logits of some hidden states: [rows, vocab].
  void logits(MatrixRef<const float> hidden, MatrixRef<float> out) {
    scratch_.input.prepare(hidden, model_->head_input, *pool_);
    model_->head.apply(scratch_.input, out, *pool_);
  }
  // Logits after the last of `ids`; valid until the next call.
  std::span<const float> next_logits(std::span<const int> ids) {
    const auto hidden = forward(ids);
    logits_.resize(1, model_->config.vocab_size);
    logits(hidden.rows(hidden.rows() - 1, 1), logits_.ref());
    return std::as_const(logits_).row(0);
  }

 private:
  Session(const Model& model, KvCache cache, RopeTable rope, ThreadPool& pool)
      : model_(&model), pool_(&pool), cache_(std::move(cache)), rope_(std::move(rope)) {}

  const Model* model_;
  ThreadPool* pool_;
  KvCache cache_;
  RopeTable rope_;
  std::vector<int> ids_;
  Scratch scratch_;
  Matrix<float> hidden_, logits_;
};

}  // namespace bisup::llama
