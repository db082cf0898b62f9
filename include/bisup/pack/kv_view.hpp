// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where do the keys and values of one head lie, and which of them are exact? Panels of 16 tokens:
// exact ones as floats of 16 or 32 bits, the packed middle as codes, scales and zero points in
// planes of their own. Attention reads these views; cache/kv_cache.hpp owns what they show.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <bisup/core/dense.hpp>
#include <bisup/core/float16.hpp>
#include <bisup/core/format.hpp>

namespace bisup {

inline constexpr int kv_panel = 16;  // tokens that are stored together, aligned to their positions
inline constexpr int kv_tile = 64;   // keys that one step of the online softmax covers
inline constexpr int kv_panels = kv_tile / kv_panel;

// How keys or values are stored: per token and head with f16 scales and, if affine, u8 zero points;
// or (keys only, as KIVI has them) per channel over the 16 tokens of a panel.
struct KvFormat {
  int bits = 16;  // 2, 3, 4, 8; 16: exact floats
  int group = 0;  // codes that share a scale; 0: the whole head
  Zero zero = Zero::affine;
  bool channels = false;  // a scale for each channel of a panel; without groups

  friend constexpr bool operator==(const KvFormat&, const KvFormat&) = default;
  [[nodiscard]] constexpr bool exact() const { return bits == 16; }
  [[nodiscard]] constexpr bool valid() const {
    return (bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16) && group >= 0 &&
           group % 32 == 0 && !(channels && (exact() || group != 0));
  }
  [[nodiscard]] constexpr Format format() const {
    return {.bits = bits, .group = group, .zero = zero};
  }
};

// Which key is exact for which query: the law of the cache. Positions count from the start of the
// sequence, the stored prompt included.
struct KvLaw {
  static constexpr int always = std::numeric_limits<int>::max() / 2;

  int exact_below = 0;  // the prompt and the sinks
  int recent = always;  // a query and the recent - 1 tokens before it
  int forgotten = 0;    // what left the window before a truncation stays packed
  int window = always;  // sliding-window attention: query i sees key j iff 0 <= i - j < window

  [[nodiscard]] constexpr bool visible(int query, int key) const {
    return key <= query && query - key < window;
  }
  [[nodiscard]] constexpr bool exact(int query, int key) const {
    return key < exact_below || (query - key < recent && key >= forgotten);
  }
  // The same as limits: visible iff first_visible(i) <= j <= i, exact iff j < exact_below or
  // j >= first_recent(i).
  [[nodiscard]] constexpr int first_visible(int query) const {
    return std::max(query - window + 1, 0);
  }
  [[nodiscard]] constexpr int first_recent(int query) const {
    return std::max(query - recent + 1, forgotten);
  }
};

// Sizes of one panel: 16 tokens of one head. Keys are stored with tokens as lanes, [dim][16];
// values a token after the other, [16][dim]. dim is head_dim padded to 32.
struct KvPanel {
  KvFormat format;
  int head_dim = 0;

  [[nodiscard]] constexpr int dim() const { return (head_dim + 31) / 32 * 32; }
  [[nodiscard]] constexpr int group() const { return format.group == 0 ? dim() : format.group; }
  [[nodiscard]] constexpr int groups() const { return (dim() + group() - 1) / group(); }
  [[nodiscard]] constexpr int floats() const { return kv_panel * dim(); }
  [[nodiscard]] constexpr int token_bytes() const { return dim() * format.bits / 8; }  // of codes
  [[nodiscard]] constexpr int code_bytes() const { return kv_panel * token_bytes(); }
  [[nodiscard]] constexpr int parameters() const {  // [groups][16], or [dim]
    return format.channels ? dim() : kv_panel * groups();
  }
  [[nodiscard]] constexpr int zero_bytes() const {
    return format.zero == Zero::affine ? parameters() : 0;
  }
};

// The keys, or the values, of one layer and head: where they begin in pages of one panel each.
struct KvPlaneView {
  KvPanel panel;
  // By panel: pages of exact floats (the prompt, the sinks and the window), and pages of codes or,
  // if nothing is rounded, of all floats.
  const std::byte* const* exact = nullptr;
  const std::byte* const* stored = nullptr;
  std::size_t exact_at = 0, codes_at = 0, scales_at = 0, zeros_at = 0;
  DType exact_type = DType::f32;  // of the floats in exact pages
  // Exact panels from staged_first on lie here instead, one after another, as f32.
  const float* staged = nullptr;
  int staged_first = 0;
  const float* center = nullptr;             // [dim]: what keys were stored without
  const std::uint8_t* same_zeros = nullptr;  // of a symmetric format

  // An exact panel and the type of its floats.
  [[nodiscard]] const void* exact_panel(int p) const {
    if (panel.format.exact()) return stored[p] + codes_at;
    if (is_staged(p))
      return staged + static_cast<std::ptrdiff_t>(p - staged_first) * panel.floats();
    return exact[p] + exact_at;
  }
  [[nodiscard]] DType exact_panel_type(int p) const {
    return panel.format.exact() || is_staged(p) ? DType::f32 : exact_type;
  }
  [[nodiscard]] const std::uint8_t* codes(int p) const {
    return reinterpret_cast<const std::uint8_t*>(stored[p] + codes_at);
  }
  [[nodiscard]] const Half* scales(int p) const {
    return reinterpret_cast<const Half*>(stored[p] + scales_at);
  }
  [[nodiscard]] const std::uint8_t* zeros(int p) const {
    if (same_zeros != nullptr) return same_zeros;
    return reinterpret_cast<const std::uint8_t*>(stored[p] + zeros_at);
  }

 private:
  [[nodiscard]] bool is_staged(int p) const { return staged != nullptr && p >= staged_first; }
};

struct KvHeadView {
  KvPlaneView keys, values;
};

}  // namespace bisup
