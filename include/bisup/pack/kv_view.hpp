// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where do the keys and values of one head lie, and which of them are exact? Panels of 16 tokens:
// exact ones as floats, the packed middle as codes, scales and zero points in planes of their own.
// Attention reads these views; cache/kv_cache.hpp owns what they show.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <bisup/core/float16.hpp>
#include <bisup/core/format.hpp>

namespace bisup {

inline constexpr int kv_panel = 16;  // tokens that are stored together, aligned to their positions
inline constexpr int kv_tile = 64;   // keys that one step of the online softmax covers
inline constexpr int kv_panels = kv_tile / kv_panel;

// How keys or values are stored: affine per token and head, f16 scales, u8 zero points.
struct KvFormat {
  int bits = 16;  // 2, 3, 4, 8; 16: exact floats
  int group = 0;  // codes that share a scale; 0: the whole head

  friend constexpr bool operator==(const KvFormat&, const KvFormat&) = default;
  [[nodiscard]] constexpr bool exact() const { return bits == 16; }
  [[nodiscard]] constexpr bool valid() const {
    return (bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16) && group >= 0 &&
           group % 32 == 0;
  }
  [[nodiscard]] constexpr Format format() const {
    return {.bits = bits, .group = group, .zero = Zero::affine};
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
  [[nodiscard]] constexpr int parameters() const { return kv_panel * groups(); }  // [groups][16]
};

// The keys, or the values, of one layer and head.
struct KvPlaneView {
  KvPanel panel;
  const float* fixed =
      nullptr;  // exact panels from position 0: the prompt and the sinks, or everything
  const float* recent =
      nullptr;  // exact panels of the window: panel p at (p - recent_first) % recent_panels
  int recent_first = 0, recent_panels = 1;
  const std::uint8_t* codes = nullptr;  // packed panels from packed_first on
  const Half* scales = nullptr;
  const std::uint8_t* zeros = nullptr;
  int packed_first = 0;

  [[nodiscard]] const float* fixed_panel(int p) const {
    return fixed + static_cast<std::ptrdiff_t>(p) * panel.floats();
  }
  [[nodiscard]] const float* recent_panel(int p) const {
    return recent +
           static_cast<std::ptrdiff_t>((p - recent_first) % recent_panels) * panel.floats();
  }
};

struct KvHeadView {
  KvPlaneView keys, values;
};

}  // namespace bisup
