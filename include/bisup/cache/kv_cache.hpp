// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a model remember of the tokens before? Their keys and values, in segments: stored
// prompt (exact) | sinks (exact) | packed middle | recent window (exact). Which key is exact for
// which query is a law (KvLaw), the same whether tokens come one by one or in chunks: key j is
// exact for query i iff j < prompt + sinks or i - j < recent. A token is rounded once, when it
// leaves the window.
//
// A cache is one sequence. fork() makes another that shares its pages until one of them writes:
// each keeps what it had. truncate() cannot bring exact forms back: a token that had left the
// window before stays packed.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/kv_layer.hpp>
#include <bisup/cache/kv_policy.hpp>
#include <bisup/cache/kv_pool.hpp>
#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/attend.hpp>
#include <bisup/ops/hadamard.hpp>

namespace bisup {

class KvCache {
 public:
  // All memory but the staging of long chunks is allocated here, for `size` sequences: this one and
  // its forks. The cache begins with the prompt.
  static Result<KvCache> allocate(CacheShape shape, KvPolicy policy, const PromptCache& prompt = {},
                                  KvPoolSize size = {}) {
    if (auto checked = check(shape, policy); !checked) return checked.error();
    if (size.sequences < 1 || size.tokens < 0)
      return Error{Errc::out_of_range, "key-value cache: a pool for no sequence"};
    if (!prompt.empty() &&
        (prompt.layers() != shape.layers || prompt.kv_heads() != shape.kv_heads ||
         prompt.head_dim() != shape.head_dim)) {
      return Error{Errc::wrong_shape, "the stored prompt belongs to a model of another shape"};
    }
    if (prompt.tokens() > shape.capacity) {
      return Error{Errc::cache_full, "the stored prompt has " + std::to_string(prompt.tokens()) +
                                         " tokens, the cache room for " +
                                         std::to_string(shape.capacity)};
    }
#if BISUP_EXCEPTIONS
    try {
      return KvCache(shape, policy, prompt, size);
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, "cannot allocate a key-value cache for " +
                                            std::to_string(shape.capacity) + " tokens"};
    }
#else
    return KvCache(shape, policy, prompt, size);
#endif
  }

  KvCache(KvCache&& other) noexcept = default;
  KvCache& operator=(KvCache&& other) noexcept {
    std::swap(pool_, other.pool_), std::swap(layers_, other.layers_);
    std::swap(staging_, other.staging_), std::swap(rotated_, other.rotated_);
    return *this;
  }
  ~KvCache() {
    if (!pool_) return;
    for (int layer = 0; layer < static_cast<int>(layers_.size()); ++layer)
      at(layer).release(layer, *pool_);
    pool_->leave();
  }

  // A second sequence that knows what this one knows, on the same pool. Errors: cache_full if the
  // pool has its number of sequences.
  [[nodiscard]] Result<KvCache> fork() const {
    if (pool_->living() == pool_->sequences()) {
      return Error{Errc::cache_full,
                   "the pool is for " + std::to_string(pool_->sequences()) + " sequences"};
    }
    return KvCache(*this, 0);
  }

  [[nodiscard]] const CacheShape& shape() const noexcept {
    return pool_->shape();
  }
  [[nodiscard]] const KvPolicy& policy() const noexcept {
    return pool_->policy();
  }
  [[nodiscard]] const KvPool& pool() const noexcept {
    return *pool_;
  }
  [[nodiscard]] int prompt_tokens() const noexcept {
    return pool_->prompt_tokens();
  }
  // Tokens that every layer holds, the prompt included: the position of the next one.
  [[nodiscard]] int size() const noexcept {
    return layers_.back().size();
  }
  [[nodiscard]] int size(int layer) const {
    return at(layer).size();
  }
  // Of a layer's tokens, so many are stored rounded; later ones are exact yet.
  [[nodiscard]] int packed_tokens(int layer) const {
    return at(layer).packed_end();
  }
  [[nodiscard]] int capacity() const noexcept {
    return shape().capacity;
  }

  // Whether `tokens` more can be appended; a full cache is the world's error, appending to it the
  // caller's.
  [[nodiscard]] Result<void> room(int tokens) const {
    if (tokens > capacity() - size()) {
      return Error{Errc::cache_full, std::to_string(size()) + " of " + std::to_string(capacity()) +
                                         " tokens are taken, no room for " +
                                         std::to_string(tokens) + " more"};
    }
    for (int layer = 0; layer < shape().layers; ++layer) {
      const int pages = at(layer).pages_for(layer, tokens, *pool_),
                free = pool_->layer(layer).stored.available();
      if (pages > free) {
        return Error{Errc::cache_full, "the pool has " + std::to_string(free) + " pages left, " +
                                           std::to_string(tokens) + " tokens more need " +
                                           std::to_string(pages)};
      }
    }
    return {};
  }

  // Stored pages of the fullest layer that `tokens` more take, and those that are left.
  [[nodiscard]] int pages(int tokens) const {
    int most = 0;
    for (int layer = 0; layer < shape().layers; ++layer)
      most = std::max(most, at(layer).pages_for(layer, tokens, *pool_));
    return most;
  }
  [[nodiscard]] int free_pages() const {
    int least = pool_->layer(0).stored.available();
    for (int layer = 1; layer < shape().layers; ++layer)
      least = std::min(least, pool_->layer(layer).stored.available());
    return least;
  }

  // Keys (after RoPE) and values of the next tokens, [tokens, kv_heads * head_dim].
  // Precondition: room(tokens).
  void append(int layer, MatrixRef<const float> keys, MatrixRef<const float> values,
              ThreadPool& pool = ThreadPool::shared()) {
    Append one{this, keys, values};
    append(layer, {&one, 1}, pool);
  }
  // The same of several sequences together, in tasks of 16 tokens.
  // Precondition: each cache at most once, and room for all of them.
  struct Append {
    KvCache* cache = nullptr;
    MatrixRef<const float> keys, values;
    KvAppend begun = {};  // append's own
  };
  static void append(int layer, std::span<Append> parts, ThreadPool& pool) {
    for (const Append& part : parts) part.cache->prepare(layer, part);
    for_blocks(
        parts, pool, [](const Append& part) { return part.cache->blocks_to_rotate(part); },
        [](Append& part, int block) { part.cache->rotate(part, block * kv_panel); });
    for (Append& part : parts) {
      KvCache& c = *part.cache;
      if (part.keys.rows() > 0)
        part.begun =
            c.at(layer).begin(layer, c.stored(part, 0), c.stored(part, 1), *c.pool_, c.staging_);
    }
    for_blocks(
        parts, pool, [](const Append& part) { return part.begun.rounded.count; },
        [layer](Append& part, int block) {
          KvCache& c = *part.cache;
          c.at(layer).round(part.begun, part.begun.rounded.first + block, *c.pool_, c.staging_);
        });
    for (Append& part : parts) {
      KvCache& c = *part.cache;
      if (part.keys.rows() > 0) c.at(layer).settle(part.begun, *c.pool_, c.staging_);
    }
    for_blocks(
        parts, pool, [](const Append& part) { return part.begun.kept.count; },
        [layer](Append& part, int block) {
          KvCache& c = *part.cache;
          c.at(layer).keep(part.begun, part.begun.kept.first + block, *c.pool_);
        });
  }
  // Attends from the last queries.rows() tokens, [tokens, heads * head_dim], causally. Query head h
  // reads KV head h div (heads / kv_heads).
  // Precondition: they came with the layer's last append, and if that was longer than the window,
  // no other layer's append has come since.
  void attend(int layer, MatrixRef<const float> queries, MatrixRef<float> out,
              ThreadPool& pool = ThreadPool::shared()) const {
    if (queries.rows() == 0) return;
    const AttendRequest one = request(layer, queries, out);
    bisup::attend({&one, 1}, pool);
  }
  // The same as a part of a batch of sequences, each with its own cache: bisup::attend(requests,
  // pool). Valid until the cache changes or moves.
  [[nodiscard]] AttendRequest request(int layer, MatrixRef<const float> queries,
                                      MatrixRef<float> out) const {
    const KvLayer& l = at(layer);
    const int first_query = l.size() - queries.rows();
    BISUP_EXPECTS(queries.rows() <= l.last_append());
    const KvLaw law = this->law(layer);
    BISUP_EXPECTS(l.exact_from(layer, *pool_, staging_) <=
                  std::max(law.first_recent(first_query), law.exact_below));
    const float scale =
        shape().scale > 0 ? shape().scale : 1.0f / std::sqrt(static_cast<float>(shape().head_dim));
    AttendRequest r{.head_dim = shape().head_dim,
                    .scale = scale,
                    .rotate_keys = policy().rotate_keys,
                    .rotate_values = policy().rotate_values,
                    .law = law,
                    .first_query = first_query,
                    .queries = queries,
                    .out = out};
    for (int head = 0; head < shape().kv_heads; ++head) {
      r.heads.push_back({l.view(layer, KvSide::keys, head, *pool_, staging_),
                         l.view(layer, KvSide::values, head, *pool_, staging_)});
    }
    return r;
  }

  // The law for the queries of the layer's last append.
  [[nodiscard]] KvLaw law(int layer) const {
    const int window = shape().window == 0 ? KvLaw::always : shape().window;
    if (policy().exact()) return {.window = window};
    return {pool_->exact_below(), policy().recent, at(layer).forgotten(), window};
  }

  // Keeps the first `tokens`. Precondition: prompt_tokens() <= tokens <= size().
  void truncate(int tokens) {
    for (int layer = 0; layer < shape().layers; ++layer) {
      BISUP_EXPECTS(tokens >= prompt_tokens() && tokens <= size(layer));
      at(layer).truncate(layer, tokens, *pool_);
    }
    staging_.layer = -1;
  }

  // Bytes that size() tokens need, and bytes taken from the allocator by the pool and this
  // sequence. pool() says what all its sequences use together, shared pages once.
  [[nodiscard]] std::size_t used_bytes() const noexcept {
    std::size_t bytes = 0;
    for (int layer = 0; layer < shape().layers; ++layer)
      bytes += at(layer).used_bytes(layer, *pool_);
    return bytes;
  }
  [[nodiscard]] std::size_t allocated_bytes() const noexcept {
    const auto lines = [](std::size_t floats) { return (floats * sizeof(float) + 63) / 64 * 64; };
    std::size_t bytes = pool_->allocated_bytes() + lines(staging_.floats.size());
    for (const auto& scratch : rotated_) bytes += lines(scratch.size());
    for (const KvLayer& l : layers_) bytes += lines(l.center_floats());
    return bytes;
  }

 private:
  KvCache(const CacheShape& shape, const KvPolicy& policy, const PromptCache& prompt,
          KvPoolSize size)
      : pool_(std::make_shared<KvPool>(shape, policy, prompt.tokens(), size)) {
    pool_->join();
    for (int layer = 0; layer < shape.layers; ++layer) layers_.emplace_back(*pool_);
    if (prompt.empty()) return;
    ThreadPool alone(1);  // the shared one would begin threads that nobody asked for
    Matrix<float> keys(prompt.tokens(), prompt.width()), values(prompt.tokens(), prompt.width());
    for (int layer = 0; layer < shape.layers; ++layer) {
      const DenseView k = prompt.keys(layer), v = prompt.values(layer);
      for (int t = 0; t < keys.rows(); ++t) {
        for (int i = 0; i < keys.cols(); ++i) keys(t, i) = k(t, i), values(t, i) = v(t, i);
      }
      append(layer, keys.ref(), values.ref(), alone);
    }
  }
  KvCache(const KvCache& origin, int) : pool_(origin.pool_) {
    pool_->join();
    for (int layer = 0; layer < shape().layers; ++layer)
      layers_.push_back(origin.at(layer).fork(layer, *pool_));
  }

  [[nodiscard]] KvLayer& at(int layer) {
    BISUP_EXPECTS(layer >= 0 && layer < shape().layers);
    return layers_[static_cast<std::size_t>(layer)];
  }
  [[nodiscard]] const KvLayer& at(int layer) const {
    BISUP_EXPECTS(layer >= 0 && layer < shape().layers);
    return layers_[static_cast<std::size_t>(layer)];
  }

  // Calls body(part, block) for the blocks of all parts.
  template <class Count, class Body>
  static void for_blocks(std::span<Append> parts, ThreadPool& pool, Count count, Body body) {
    int blocks = 0;
    for (const Append& part : parts) blocks += count(part);
    pool.parallel_for(blocks, [&](int block, int) {
      auto part = parts.begin();
      for (; block >= count(*part); ++part) block -= count(*part);
      body(*part, block);
    });
  }
  // Room for what rotating writes.
  void prepare(int layer, const Append& a) {
    const int width = shape().kv_heads * shape().head_dim, tokens = a.keys.rows();
    BISUP_EXPECTS(a.keys.cols() == width && a.values.cols() == width);
    BISUP_EXPECTS(a.values.rows() == tokens && tokens <= capacity() - size(layer));
    const auto floats = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(width);
    for (std::size_t side = 0; side < 2; ++side) {
      if (rotates(side) && rotated_[side].size() < floats)
        rotated_[side] = AlignedBuffer<float>(floats);
    }
  }
  // Of keys (0) or values (1).
  [[nodiscard]] bool rotates(std::size_t side) const {
    return side == 0 ? policy().rotate_keys : policy().rotate_values;
  }
  [[nodiscard]] int blocks_to_rotate(const Append& a) const {
    return rotates(0) || rotates(1) ? panels_of(a.keys.rows()) : 0;
  }
  void rotate(const Append& a, int first) {
    const int width = a.keys.cols(), dim = shape().head_dim,
              last = std::min(first + kv_panel, a.keys.rows());
    for (std::size_t side = 0; side < 2; ++side) {
      if (!rotates(side)) continue;
      for (int t = first; t < last; ++t) {
        float* into = rotated_[side].data() + static_cast<std::ptrdiff_t>(t) * width;
        std::copy_n((side == 0 ? a.keys : a.values).row_data(t), width, into);
        for (int i = 0; i < width; i += dim)
          hadamard(std::span(into + i, static_cast<std::size_t>(dim)));
      }
    }
  }
  // What is stored: the rows, or each head rotated.
  [[nodiscard]] MatrixRef<const float> stored(const Append& a, std::size_t side) const {
    if (rotates(side)) return {rotated_[side].data(), a.keys.rows(), a.keys.cols()};
    return side == 0 ? a.keys : a.values;
  }

  std::shared_ptr<KvPool> pool_;
  std::vector<KvLayer> layers_;
  KvStaging staging_;
  std::array<AlignedBuffer<float>, 2> rotated_;  // keys, values
};

}  // namespace bisup
