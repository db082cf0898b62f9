// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a program that embeds one kind of cache write? KvCacheOf<Key, Value>: a KvCache whose
// formats are fixed in its type.

#include <utility>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/format.hpp>

namespace bisup {

// A format that a cache can hold: affine, f16 scales, 2, 3, 4 or 8 bits.
template <class F>
concept CacheFormat = AnyFormat<F> && F::value.affine() &&
                      F::value.scale
                          == Scale::f16&& KvFormat{F::value.bits, F::value.group}.valid();

template <CacheFormat Key, CacheFormat Value = Key>
class KvCacheOf {
 public:
  // The policy's formats are the type's, whatever it says.
  static Result<KvCacheOf> allocate(CacheShape shape, KvPolicy policy,
                                    const PromptCache& prompt = {}) {
    policy.keys = {Key::value.bits, Key::value.group};
    policy.values = {Value::value.bits, Value::value.group};
    auto cache = KvCache::allocate(shape, policy, prompt);
    if (!cache) return cache.error();
    return KvCacheOf(std::move(cache).value());
  }

  void append(int layer, MatrixRef<const float> keys, MatrixRef<const float> values,
              ThreadPool& pool = ThreadPool::shared()) {
    cache_.append(layer, keys, values, pool);
  }
  void attend(int layer, MatrixRef<const float> queries, MatrixRef<float> out,
              ThreadPool& pool = ThreadPool::shared()) const {
    cache_.attend(layer, queries, out, pool);
  }
  void truncate(int tokens) { cache_.truncate(tokens); }
  [[nodiscard]] Result<void> room(int tokens) const { return cache_.room(tokens); }
  [[nodiscard]] int size() const noexcept { return cache_.size(); }
  [[nodiscard]] int capacity() const noexcept { return cache_.capacity(); }
  [[nodiscard]] std::size_t used_bytes() const noexcept { return cache_.used_bytes(); }
  [[nodiscard]] std::size_t allocated_bytes() const noexcept { return cache_.allocated_bytes(); }
  // The same cache for code that takes any.
  [[nodiscard]] KvCache& untyped() noexcept { return cache_; }

 private:
  explicit KvCacheOf(KvCache&& cache) : cache_(std::move(cache)) {}
  KvCache cache_;
};

}  // namespace bisup
