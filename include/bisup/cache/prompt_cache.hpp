// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is known before the first token? The exact keys and values of a stored prompt, as
// KvCache::append is given them: after RoPE, before a rotation of the cache's policy. A rotation
// that is folded into the model's weights is in them already. io/ writes and reads them; a KvCache
// begins with them.

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/float16.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

// Copies share their keys and values.
class PromptCache {
 public:
  PromptCache() = default;  // no prompt
  // `type` is f16 or f32: how keys and values are stored.
  PromptCache(std::vector<int> ids, int layers, int kv_heads, int head_dim, DType type = DType::f16)
      : ids_(std::move(ids)),
        layers_(layers),
        kv_heads_(kv_heads),
        head_dim_(head_dim),
        type_(type) {
    BISUP_EXPECTS(layers > 0 && kv_heads > 0 && head_dim > 0);
    BISUP_EXPECTS(type == DType::f16 || type == DType::f32);
    const auto count =
        static_cast<std::size_t>(2 * layers) * ids_.size() * static_cast<std::size_t>(width());
    data_ = std::make_shared<AlignedBuffer<std::byte>>(count *
                                                       static_cast<std::size_t>(bytes_of(type)));
  }

  [[nodiscard]] bool empty() const noexcept { return ids_.empty(); }
  [[nodiscard]] int tokens() const noexcept { return static_cast<int>(ids_.size()); }
  [[nodiscard]] std::span<const int> ids() const noexcept { return ids_; }
  [[nodiscard]] int layers() const noexcept { return layers_; }
  [[nodiscard]] int kv_heads() const noexcept { return kv_heads_; }
  [[nodiscard]] int head_dim() const noexcept { return head_dim_; }
  [[nodiscard]] int width() const noexcept { return kv_heads_ * head_dim_; }
  [[nodiscard]] DType type() const noexcept { return type_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return data_ ? data_->size() : 0; }
  // As stored, [tokens, kv_heads * head_dim].
  [[nodiscard]] DenseView keys(int layer) const {
    return {data(layer, 0), type_, tokens(), width()};
  }
  [[nodiscard]] DenseView values(int layer) const {
    return {data(layer, 1), type_, tokens(), width()};
  }

  // Rounds them to the stored type.
  void set(int layer, MatrixRef<const float> keys, MatrixRef<const float> values) {
    store(keys, data(layer, 0)), store(values, data(layer, 1));
  }

 private:
  [[nodiscard]] std::size_t place(int layer, int which) const {
    BISUP_EXPECTS(layer >= 0 && layer < layers_);
    return static_cast<std::size_t>(2 * layer + which) * ids_.size() *
           static_cast<std::size_t>(width()) * static_cast<std::size_t>(bytes_of(type_));
  }
  [[nodiscard]] std::byte* data(int layer, int which) {
    return data_->data() + place(layer, which);
  }
  [[nodiscard]] const std::byte* data(int layer, int which) const {
    return data_->data() + place(layer, which);
  }

  void store(MatrixRef<const float> from, std::byte* to) const {
    BISUP_EXPECTS(from.rows() == tokens() && from.cols() == width());
    for (int t = 0; t < from.rows(); ++t) {
      for (int i = 0; i < from.cols(); ++i) {
        const int at = t * width() + i;
        if (type_ == DType::f16) {
          reinterpret_cast<Half*>(to)[at] = to_half(from(t, i));
        } else {
          reinterpret_cast<float*>(to)[at] = from(t, i);
        }
      }
    }
  }

  std::vector<int> ids_;
  int layers_ = 0, kv_heads_ = 0, head_dim_ = 0;
  DType type_ = DType::f16;
  std::shared_ptr<AlignedBuffer<std::byte>> data_;
};

// A request without the stored prompt that it begins with, or else without the BOS that the prompt
// has said already (`bos`: what the tokenizer puts before every text). Something is always left to
// answer: a request that is no more than that stays as it is.
[[nodiscard]] inline std::span<const int> after_prompt(std::span<const int> ids,
                                                       std::span<const int> prompt,
                                                       std::optional<int> bos = {}) {
  if (prompt.empty()) return ids;
  if (ids.size() > prompt.size() && std::equal(prompt.begin(), prompt.end(), ids.begin()))
    return ids.subspan(prompt.size());
  const bool twice = bos && ids.size() > 1 && ids.front() == *bos && prompt.front() == *bos;
  return twice ? ids.subspan(1) : ids;
}
[[nodiscard]] inline std::span<const int> after_prompt(std::span<const int> ids,
                                                       const PromptCache& prompt,
                                                       std::optional<int> bos = {}) {
  return after_prompt(ids, prompt.ids(), bos);
}

}  // namespace bisup
