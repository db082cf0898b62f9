// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How exactly is the past remembered? A KvPolicy says which tokens stay exact and how the others
// are rounded, by layer and head if need be; CacheShape says of what model. Next:
// cache/kv_cache.hpp keeps the promise.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/dense.hpp>
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

// How the keys and values of one layer and KV head are rounded.
struct KvEntry {
  KvFormat keys{}, values{};
  Clip key_clip{}, value_clip{};  // share of a group's extremes that the codes cover

  friend constexpr bool operator==(const KvEntry&, const KvEntry&) = default;
  [[nodiscard]] constexpr bool exact() const { return keys.exact() && values.exact(); }
};

// A window that has a mean, or a panel in it that can be rounded by channels.
inline constexpr int shortest_window = kv_panel;

struct KvPolicy {
  int sinks = 0;   // tokens after the prompt that stay exact
  int recent = 0;  // the newest tokens, the query's own included, that are exact
  KvFormat keys{}, values{};
  bool rotate_keys = false;    // Hadamard on keys and queries; a head_dim of 2^n
  bool rotate_values = false;  // on values, and back on what attention gives
  Clip key_clip{}, value_clip{};
  // Scales by least squares among shares of the clipped range, then such that nothing shrinks
  // (cache/kv_rounding.hpp).
  bool fit_scales = false;
  // Keys are rounded without the mean of the window in which rounding begins; scores get it back.
  bool center_keys = false;
  // How the prompt, the sinks and the window lie in memory, where something else is rounded. A
  // token is rounded to codes from that form; without a window, from what append is given.
  DType exact_type = DType::f16;
  std::vector<KvEntry> table = {};  // [layers * kv_heads]: instead of the formats and clips above

  friend bool operator==(const KvPolicy&, const KvPolicy&) = default;

  [[nodiscard]] KvEntry entry(int layer, int head, int kv_heads) const {
    if (table.empty()) return {keys, values, key_clip, value_clip};
    return table[static_cast<std::size_t>(layer * kv_heads + head)];
  }
  // Everything exact.
  [[nodiscard]] bool exact() const {
    if (table.empty()) return keys.exact() && values.exact();
    return std::all_of(table.begin(), table.end(), [](const KvEntry& e) { return e.exact(); });
  }
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
  if (shape.head_dim > 4096) return refuse("a head_dim above 4096");
  if (!(shape.scale >= 0) || shape.window < 0) return refuse("a scale or window below zero");
  if (policy.sinks < 0 || policy.recent < 0)
    return refuse("sinks and recent count tokens, so neither is below zero");
  if (policy.exact_type == DType::i8) return refuse("exact tokens lie in f16, bf16 or f32");
  const auto entries =
      static_cast<std::size_t>(shape.layers) * static_cast<std::size_t>(shape.kv_heads);
  if (!policy.table.empty() && policy.table.size() != entries) {
    return refuse("a table of " + std::to_string(policy.table.size()) + " entries for " +
                  std::to_string(entries) + " layers times heads");
  }
  const auto share = [](float c) { return c > 0 && c <= 1; };
  for (std::size_t i = 0; i < std::max<std::size_t>(policy.table.size(), 1); ++i) {
    const KvEntry entry = policy.entry(static_cast<int>(i) / shape.kv_heads,
                                       static_cast<int>(i) % shape.kv_heads, shape.kv_heads);
    for (const KvFormat& format : {entry.keys, entry.values}) {
      if (!format.valid())
        return refuse(
            std::to_string(format.bits) + " bits, group " + std::to_string(format.group) +
            ": bits are 2, 3, 4, 8 or 16, a group a multiple of 32 or 0 (scales by channel have "
            "none)");
      if (format.group > shape.head_dim)
        return refuse("a group longer than head_dim " + std::to_string(shape.head_dim));
    }
    if (entry.values.channels) return refuse("only keys can have scales by channel");
    if (entry.keys.channels && policy.recent < shortest_window) {
      return refuse("scales by channel need a window of " + std::to_string(shortest_window) +
                    " recent tokens: a panel is rounded at once");
    }
    for (const Clip& clip : {entry.key_clip, entry.value_clip}) {
      if (!share(clip.high) || !share(clip.low)) return refuse("a clip is a share in (0, 1]");
    }
  }
  if (policy.center_keys && policy.recent < shortest_window) {
    return refuse("centered keys need a window of " + std::to_string(shortest_window) +
                  " recent tokens to take the mean of");
  }
  if ((policy.rotate_keys || policy.rotate_values) &&
      (shape.head_dim & (shape.head_dim - 1)) != 0) {
    return refuse("rotation needs a head_dim that is a power of two, not " +
                  std::to_string(shape.head_dim));
  }
  return {};
}

}  // namespace bisup
