// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a model remember of the tokens before? Their keys and values, in segments: stored
// prompt (exact) | sinks (exact) | packed middle | recent window (exact). Which key is exact for
// which query is a law (KvLaw), the same whether tokens come one by one or in chunks: key j is
// exact for query i iff j < prompt + sinks or i - j < recent. A token is rounded once, when it
// leaves the window.
//
// truncate() cannot bring exact forms back: a token that had left the window before stays packed.

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/kv_plane.hpp>
#include <bisup/cache/kv_policy.hpp>
#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/attend.hpp>
#include <bisup/ops/hadamard.hpp>

namespace bisup {

class KvCache {
 public:
  // All memory but the staging of long chunks is allocated here. The cache begins with the prompt.
  static Result<KvCache> allocate(CacheShape shape, KvPolicy policy,
                                  const PromptCache& prompt = {}) {
    if (auto checked = check(shape, policy); !checked) return checked.error();
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
      return KvCache(shape, policy, prompt);
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, "cannot allocate a key-value cache for " +
                                            std::to_string(shape.capacity) + " tokens"};
    }
#else
    return KvCache(shape, policy, prompt);
#endif
  }

  [[nodiscard]] const CacheShape& shape() const noexcept {
    return shape_;
  }
  [[nodiscard]] const KvPolicy& policy() const noexcept {
    return policy_;
  }
  [[nodiscard]] int prompt_tokens() const noexcept {
    return prompt_;
  }
  // Tokens that every layer holds, the prompt included: the position of the next one.
  [[nodiscard]] int size() const noexcept {
    return layers_.back().size;
  }
  [[nodiscard]] int size(int layer) const {
    return at(layer).size;
  }
  [[nodiscard]] int capacity() const noexcept {
    return shape_.capacity;
  }

  // Whether `tokens` more can be appended; a full cache is the world's error, appending to it the
  // caller's.
  [[nodiscard]] Result<void> room(int tokens) const {
    if (tokens <= shape_.capacity - size()) return {};
    return Error{Errc::cache_full,
                 std::to_string(size()) + " of " + std::to_string(shape_.capacity) +
                     " tokens are taken, no room for " + std::to_string(tokens) + " more"};
  }

  // Keys (after RoPE) and values of the next tokens, [tokens, kv_heads * head_dim].
  // Precondition: room(tokens).
  void append(int layer, MatrixRef<const float> keys, MatrixRef<const float> values) {
    Layer& l = at(layer);
    const int width = shape_.kv_heads * shape_.head_dim, tokens = keys.rows();
    BISUP_EXPECTS(keys.cols() == width && values.cols() == width && values.rows() == tokens);
    BISUP_EXPECTS(tokens <= shape_.capacity - l.size);
    if (tokens == 0) return;
    const int pack_to =
        std::max(l.packed_end, l.size + tokens - std::min(policy_.recent, shape_.capacity));
    keys_.append(layer, l.size, stored(keys, policy_.rotate_keys), l.packed_end, pack_to);
    values_.append(layer, l.size, stored(values, policy_.rotate_values), l.packed_end, pack_to);
    l.forgotten = std::exchange(l.packed_end, pack_to);
    l.size += tokens, l.last_append = tokens;
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
  // pool).
  [[nodiscard]] AttendRequest request(int layer, MatrixRef<const float> queries,
                                      MatrixRef<float> out) const {
    const Layer& l = at(layer);
    const int first_query = l.size - queries.rows();
    BISUP_EXPECTS(queries.rows() <= l.last_append);
    const KvLaw law = this->law(layer);
    for (const KvPlane* plane : {&keys_, &values_}) {
      BISUP_EXPECTS(plane->recent_from(layer) <=
                    std::max(law.first_recent(first_query), law.exact_below));
    }
    AttendRequest r{.head_dim = shape_.head_dim,
                    .scale = scale_,
                    .rotate_keys = policy_.rotate_keys,
                    .rotate_values = policy_.rotate_values,
                    .law = law,
                    .first_query = first_query,
                    .queries = queries,
                    .out = out};
    for (int head = 0; head < shape_.kv_heads; ++head)
      r.heads.push_back({keys_.view(layer, head), values_.view(layer, head)});
    return r;
  }

  // The law for the queries of the layer's last append.
  [[nodiscard]] KvLaw law(int layer) const {
    const int window = shape_.window == 0 ? KvLaw::always : shape_.window;
    if (policy_.exact()) return {.window = window};
    return {exact_below_, policy_.recent, at(layer).forgotten, window};
  }

  // Keeps the first `tokens`. Precondition: prompt_tokens() <= tokens <= size().
  void truncate(int tokens) {
    for (Layer& l : layers_) {
      BISUP_EXPECTS(tokens >= prompt_ && tokens <= l.size);
      l.size = tokens, l.last_append = 0;
      l.packed_end = l.forgotten = std::max(std::min(l.packed_end, tokens), exact_below_);
    }
  }

  // Bytes that size() tokens need, and bytes taken from the allocator.
  [[nodiscard]] std::size_t used_bytes() const noexcept {
    std::size_t bytes = 0;
    for (int layer = 0; layer < shape_.layers; ++layer) {
      const Layer& l = at(layer);
      bytes += keys_.used_bytes(layer, l.size, l.packed_end) +
               values_.used_bytes(layer, l.size, l.packed_end);
    }
    return bytes;
  }
  [[nodiscard]] std::size_t allocated_bytes() const noexcept {
    return keys_.allocated_bytes() + values_.allocated_bytes() +
           (rotated_.size() * sizeof(float) + 63) / 64 * 64;
  }

 private:
  struct Layer {
    int size = 0;
    int packed_end = 0;  // tokens exact_below ... packed_end - 1 are packed
    int forgotten = 0;   // packed_end before the last append
    int last_append = 0;
  };

  KvCache(const CacheShape& shape, const KvPolicy& policy, const PromptCache& prompt)
      : shape_(shape),
        policy_(policy),
        prompt_(prompt.tokens()),
        exact_below_(
            std::min(prompt.tokens() + std::min(policy.sinks, shape.capacity), shape.capacity)),
        scale_(shape.scale > 0 ? shape.scale
                               : 1.0f / std::sqrt(static_cast<float>(shape.head_dim))),
        keys_(KvSide::keys, shape, policy, exact_below_),
        values_(KvSide::values, shape, policy, exact_below_),
        layers_(static_cast<std::size_t>(shape.layers),
                Layer{.packed_end = exact_below_, .forgotten = exact_below_}) {
    if (prompt.empty()) return;
    Matrix<float> keys(prompt.tokens(), prompt.width()), values(prompt.tokens(), prompt.width());
    for (int layer = 0; layer < shape.layers; ++layer) {
      const DenseView k = prompt.keys(layer), v = prompt.values(layer);
      for (int t = 0; t < keys.rows(); ++t) {
        for (int i = 0; i < keys.cols(); ++i) keys(t, i) = k(t, i), values(t, i) = v(t, i);
      }
      append(layer, keys.ref(), values.ref());
    }
  }

  [[nodiscard]] Layer& at(int layer) {
    BISUP_EXPECTS(layer >= 0 && layer < shape_.layers);
    return layers_[static_cast<std::size_t>(layer)];
  }
  [[nodiscard]] const Layer& at(int layer) const {
    BISUP_EXPECTS(layer >= 0 && layer < shape_.layers);
    return layers_[static_cast<std::size_t>(layer)];
  }

  // What is stored: the rows, or each head rotated.
  [[nodiscard]] MatrixRef<const float> stored(MatrixRef<const float> rows, bool rotate) {
    if (!rotate) return rows;
    const auto floats =
        static_cast<std::size_t>(rows.rows()) * static_cast<std::size_t>(rows.cols());
    if (rotated_.size() < floats) rotated_ = AlignedBuffer<float>(floats);
    const MatrixRef<float> into(rotated_.data(), rows.rows(), rows.cols());
    for (int t = 0; t < rows.rows(); ++t) {
      std::copy_n(rows.row_data(t), rows.cols(), into.row_data(t));
      for (int head = 0; head < shape_.kv_heads; ++head) {
        hadamard(into.row(t).subspan(static_cast<std::size_t>(head * shape_.head_dim),
                                     static_cast<std::size_t>(shape_.head_dim)));
      }
    }
    return into;
  }

  CacheShape shape_;
  KvPolicy policy_;
  int prompt_ = 0, exact_below_ = 0;
  float scale_ = 1;
  KvPlane keys_, values_;
  std::vector<Layer> layers_;
  AlignedBuffer<float> rotated_;
};

}  // namespace bisup
