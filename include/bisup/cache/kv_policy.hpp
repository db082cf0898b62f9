// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How exactly is the past remembered? A KvPolicy says which tokens stay exact and how the others
// are rounded; CacheShape says of what model. Next: cache/kv_cache.hpp keeps the promise.

#include <string>

#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/pack/codes.hpp>
#include <bisup/pack/kv_view.hpp>

namespace bisup {

struct CacheShape {
  int layers = 0, kv_heads = 0, head_dim = 0;
  int capacity = 0;  // tokens, the stored prompt included
  float scale = 0;   // of the scores; 0: 1 / sqrt(head_dim)
  int window = 0;    // sliding-window attention: how many tokens a query sees; 0: all

  friend constexpr bool operator==(const CacheShape&, const CacheShape&) = default;
};

struct KvPolicy {
  int sinks = 0;   // tokens after the prompt that stay exact
  int recent = 0;  // the newest tokens, the query's own included, that are exact
  KvFormat keys{}, values{};
  bool rotate = false;  // Hadamard on keys and queries, and on values and back; a head_dim of 2^n
  Clip clip{};          // share of a group's extremes that the codes cover

  friend constexpr bool operator==(const KvPolicy&, const KvPolicy&) = default;

  // Everything exact.
  [[nodiscard]] constexpr bool exact() const { return keys.exact() && values.exact(); }
  // What KV4, or K8V4, in a scheme means: no sinks, no window, no rotation.
  [[nodiscard]] static KvPolicy of(const Scheme& scheme) {
    return {.keys = {.bits = scheme.key_bits}, .values = {.bits = scheme.value_bits}};
  }
};

[[nodiscard]] inline Result<void> check(const CacheShape& shape, const KvPolicy& policy) {
  const auto refuse = [](std::string why) {
    return Error{Errc::out_of_range, "key-value cache: " + std::move(why)};
  };
  if (shape.layers <= 0 || shape.kv_heads <= 0 || shape.head_dim <= 0 || shape.capacity <= 0) {
    return refuse("layers, heads, head_dim and capacity must be positive");
  }
  if (!(shape.scale >= 0) || shape.window < 0) return refuse("a scale or window below zero");
  if (policy.sinks < 0 || policy.recent < 0)
    return refuse("sinks and recent count tokens, so neither is below zero");
  for (const KvFormat& format : {policy.keys, policy.values}) {
    if (!format.valid())
      return refuse(std::to_string(format.bits) + " bits, group " + std::to_string(format.group) +
                    ": bits are 2, 3, 4, 8 or 16, a group a multiple of 32 or 0");
    if (format.group > shape.head_dim)
      return refuse("a group longer than head_dim " + std::to_string(shape.head_dim));
  }
  if (policy.rotate && (shape.head_dim & (shape.head_dim - 1)) != 0) {
    return refuse("rotation needs a head_dim that is a power of two, not " +
                  std::to_string(shape.head_dim));
  }
  const auto share = [](float c) { return c > 0 && c <= 1; };
  if (!share(policy.clip.high) || !share(policy.clip.low))
    return refuse("a clip is a share in (0, 1]");
  return {};
}

}  // namespace bisup
