// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are many conversations computed at once? Sequences share a model's weights, one forward pass
// and the pages of one pool: each forward takes any number of tokens of any of them, prompts beside
// single tokens, so that new ones come and finished ones go between two passes.

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/kv_batch.hpp>
#include <bisup/cache/kv_shelf.hpp>
#include <bisup/core/result.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/llama/block.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/llama/session.hpp>

namespace bisup::llama {

class Sequences {
 public:
  // `model` must outlive it. capacity: the most tokens of one sequence, the stored prompt included;
  // size: of all sequences, those kept for later included. Errors: those of Session::make.
  static Result<Sequences> make(const Model& model, int capacity, const KvPolicy& policy,
                                KvPoolSize size, ThreadPool& pool = ThreadPool::shared()) {
    if (auto target = find_target(); !target) return target.error();
    if (auto fits = check_capacity(model, capacity); !fits) return fits.error();
    ++size.sequences;  // the one that all are forks of
    auto root = KvCache::allocate(cache_shape(model, capacity), policy, model.prompt, size);
    if (!root) return root.error();
    return Sequences(model, KvShelf(std::move(root).value()), RopeTable(model.config, capacity),
                     pool);
  }

  // Begins a sequence for a request of `ids` (without the stored prompt's); what an earlier one
  // left on the shelf of its beginning, but not of all of it, is there already: size() says how
  // much. Errors: cache_full if too many live.
  [[nodiscard]] Result<int> begin(std::span<const int> ids = {}) {
    auto found = shelf_.find(ids.empty() ? ids : ids.first(ids.size() - 1));
    if (!found) return found.error();
    const auto free = std::find(caches_.begin(), caches_.end(), std::nullopt);
    const auto id = static_cast<int>(free - caches_.begin());
    if (free == caches_.end()) caches_.emplace_back();
    caches_[static_cast<std::size_t>(id)] = std::move(found->cache);
    return id;
  }
  // Errors: cache_full.
  [[nodiscard]] Result<int> fork(int sequence) {
    auto copy = cache(sequence).fork();
    while (!copy && shelf_.evict()) copy = cache(sequence).fork();
    if (!copy) return copy.error();
    caches_.emplace_back(std::move(copy).value());
    return static_cast<int>(caches_.size()) - 1;
  }
  // Ends a sequence; its number may be given again.
  void end(int sequence) { (void)cache(sequence), caches_[index(sequence)].reset(); }
  // Leaves what a sequence knows, the tokens `ids`, on the shelf for later requests.
  bool keep(int sequence, std::span<const int> ids) { return shelf_.keep(ids, cache(sequence)); }
  void truncate(int sequence, int tokens) {
    cache(sequence).truncate(std::max(tokens, shelf_.root().prompt_tokens()));
  }

  // Tokens that a sequence holds, the stored prompt's included.
  [[nodiscard]] int size(int sequence) const { return caches_.at(index(sequence)).value().size(); }
  [[nodiscard]] const KvPool& pool() const noexcept { return shelf_.root().pool(); }

  struct Next {
    int sequence = 0;
    std::span<const int> ids;  // at least one, inside the vocabulary
  };
  // Appends tokens to sequences, each named once, and returns the logits after the last token of
  // each, [nexts, vocab], valid until the next call. Errors: cache_full, naming the sequence;
  // nothing is appended then.
  [[nodiscard]] Result<MatrixRef<const float>> forward(std::span<const Next> nexts) {
    parts_.clear(), pieces_.clear();
    int tokens = 0, wanted = 0;
    for (const Next& next : nexts) {
      KvCache& its = cache(next.sequence);
      const int count = static_cast<int>(next.ids.size());
      BISUP_EXPECTS(count > 0);
      if (auto room = shelf_.make_room(its, count); !room) return named(next, room.error());
      parts_.push_back({&its, count});
      pieces_.push_back({its.size(), count});
      tokens += count, wanted += its.pages(count);
    }
    BISUP_EXPECTS(tokens > 0);
    while (wanted > shelf_.root().free_pages() && shelf_.evict()) {
    }
    if (wanted > shelf_.root().free_pages())
      return Error{Errc::cache_full, "the pool has no pages for all of the batch"};
    hidden_.resize(tokens, model_->config.hidden_size);
    int row = 0;
    for (const Next& next : nexts) {
      const int count = static_cast<int>(next.ids.size());
      embed(*model_, next.ids, hidden_.ref().rows(row, count));
      row += count;
    }
    const BlockShape shape = model_->block_shape();
    KvBatch cache(parts_);
    for (int layer = 0; layer < model_->config.layers; ++layer) {
      llama::forward(shape, model_->blocks[static_cast<std::size_t>(layer)], rope_, layer,
                     Batch(pieces_), cache, scratch_, *pool_, hidden_.ref());
    }
    return last_logits();
  }

 private:
  Sequences(const Model& model, KvShelf shelf, RopeTable rope, ThreadPool& pool)
      : model_(&model), pool_(&pool), shelf_(std::move(shelf)), rope_(std::move(rope)) {}

  static std::size_t index(int sequence) { return static_cast<std::size_t>(sequence); }
  [[nodiscard]] KvCache& cache(int sequence) {
    BISUP_EXPECTS(sequence >= 0 && index(sequence) < caches_.size() && caches_[index(sequence)]);
    return *caches_[index(sequence)];
  }
  static Error named(const Next& next, Error error) {
    error.message = "sequence " + std::to_string(next.sequence) + ": " + error.message;
    return error;
  }

  MatrixRef<const float> last_logits() {
    const auto count = static_cast<int>(pieces_.size());
    last_.resize(count, hidden_.cols()), logits_.resize(count, model_->config.vocab_size);
    int row = -1;
    for (int i = 0; i < count; ++i) {
      row += pieces_[static_cast<std::size_t>(i)].tokens;
      std::copy_n(std::as_const(hidden_).row(row).data(), hidden_.cols(), last_.row(i).data());
    }
    rms_norm(last_.ref(), model_->final_norm, model_->config.norm_eps, last_.ref(), *pool_);
    scratch_.input.prepare(std::as_const(last_).ref(), model_->head_input, *pool_);
    model_->head.apply(scratch_.input, logits_.ref(), *pool_);
    return std::as_const(logits_).ref();
  }

  const Model* model_;
  ThreadPool* pool_;
  KvShelf shelf_;
  std::vector<std::optional<KvCache>> caches_;
  RopeTable rope_;
  Scratch scratch_;
  std::vector<KvBatch::Part> parts_;
  std::vector<Piece> pieces_;
  Matrix<float> hidden_, last_, logits_;
};

}  // namespace bisup::llama
