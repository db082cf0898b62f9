// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// From what memory do caches live? A KvPool has pages of one 16-token panel of one layer, and says
// where every head's keys and values lie in them: exact pages hold the prompt, the sinks and the
// window (KvPolicy::exact_type) of what is rounded later, stored pages the codes, and f32 of what
// never is. Each layer has
// pages of its own size.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <bisup/cache/kv_pages.hpp>
#include <bisup/cache/kv_policy.hpp>
#include <bisup/pack/kv_view.hpp>

namespace bisup {

// Keys lie with tokens as lanes, values a token after the other: what each kernel reads.
enum class KvSide : std::uint8_t { keys, values };

// For how many sequences a pool is.
struct KvPoolSize {
  int sequences = 1;
  int tokens = 0;  // of all of them together, outside their windows; 0: each may fill its capacity
};

// The keys or the values of one head: how they are rounded and where they begin in their pages.
struct KvPlane {
  KvPanel panel;
  Clip clip;
  std::size_t exact_at = 0, codes_at = 0, scales_at = 0, zeros_at = 0;

  // Of a panel of exact tokens.
  [[nodiscard]] std::size_t exact_bytes(DType type) const {
    return static_cast<std::size_t>(panel.floats() * bytes_of(type));
  }
};

// One layer's planes and pages.
struct KvLayerPages {
  std::vector<KvPlane> keys, values;  // [kv_heads]
  KvPages exact, stored;
  bool rounds = false;   // some plane is rounded: there are exact pages
  bool floats = false;   // some plane is not: stored pages hold floats of every token
  int stored_first = 0;  // the first panel that has a stored page

  [[nodiscard]] const KvPlane& plane(KvSide side, int head) const {
    return (side == KvSide::keys ? keys : values)[static_cast<std::size_t>(head)];
  }
};

[[nodiscard]] constexpr int panels_of(int tokens) {
  return (tokens + kv_panel - 1) / kv_panel;
}

class KvPool {
 public:
  // prompt: tokens of the stored one. Throws std::bad_alloc.
  KvPool(const CacheShape& shape, const KvPolicy& policy, int prompt, KvPoolSize size)
      : KvPool(shape, policy, prompt, size, true) {}

  // What such a pool takes from the allocator. Precondition: check(shape, policy).
  [[nodiscard]] static std::size_t bytes_for(const CacheShape& shape, const KvPolicy& policy,
                                             int prompt, KvPoolSize size = {}) {
    return KvPool(shape, policy, prompt, size, false).planned_;
  }

  [[nodiscard]] const CacheShape& shape() const noexcept { return shape_; }
  [[nodiscard]] const KvPolicy& policy() const noexcept { return policy_; }
  [[nodiscard]] int prompt_tokens() const noexcept { return prompt_; }
  [[nodiscard]] int exact_below() const noexcept { return exact_below_; }
  [[nodiscard]] int window() const noexcept { return window_; }
  [[nodiscard]] int window_panels() const noexcept { return window_panels_; }
  [[nodiscard]] KvLayerPages& layer(int layer) {
    BISUP_EXPECTS(layer >= 0 && layer < shape_.layers);
    return layers_[static_cast<std::size_t>(layer)];
  }
  [[nodiscard]] const KvLayerPages& layer(int layer) const {
    BISUP_EXPECTS(layer >= 0 && layer < shape_.layers);
    return layers_[static_cast<std::size_t>(layer)];
  }

  // Sequences that live on the pool, and how many may.
  [[nodiscard]] int living() const noexcept { return living_; }
  [[nodiscard]] int sequences() const noexcept { return sequences_; }
  void join() { BISUP_EXPECTS(living_ < sequences_), ++living_; }
  void leave() { --living_; }

  // Bytes of the pages that some sequence holds, shared ones once; and of all.
  [[nodiscard]] std::size_t used_bytes() const {
    std::size_t bytes = 0;
    for (const auto& l : layers_) {
      for (const KvPages* pages : {&l.exact, &l.stored})
        bytes += static_cast<std::size_t>(pages->in_use()) * pages->page_bytes();
    }
    return bytes;
  }
  [[nodiscard]] std::size_t allocated_bytes() const {
    std::size_t bytes = 0;
    for (const auto& l : layers_) bytes += l.exact.bytes() + l.stored.bytes();
    return bytes;
  }

 private:
  KvPool(const CacheShape& shape, const KvPolicy& policy, int prompt, KvPoolSize size,
         bool allocate)
      : shape_(shape),
        policy_(policy),
        prompt_(prompt),
        exact_below_(std::min(prompt + std::min(policy.sinks, shape.capacity), shape.capacity)),
        window_(std::min(policy.recent, shape.capacity)),
        sequences_(size.sequences) {
    // Any window_ consecutive tokens touch at most so many panels.
    window_panels_ = window_ == 0 ? 0 : std::min((window_ + 14) / kv_panel + 1, all_panels());
    // Whole panels of the prompt are written once and then shared.
    const int whole = prompt / kv_panel,
              own = std::min(panels_of(exact_below_) + window_panels_, all_panels()) - whole;
    for (int layer = 0; layer < shape.layers; ++layer) {
      KvLayerPages pages = describe(layer);
      const int last = pages.floats ? shape.capacity : shape.capacity - window_;
      const int each = std::max(panels_of(last) - pages.stored_first, 0);
      const int shared = pages.floats ? whole : 0;
      int stored = size.sequences * (each - shared) + shared;
      if (size.tokens > 0)
        stored = std::min(stored, panels_of(size.tokens) + size.sequences + shared);
      const int exact = pages.rounds ? whole + size.sequences * own : 0;
      planned_ += static_cast<std::size_t>(exact) * exact_bytes_ +
                  static_cast<std::size_t>(stored) * stored_bytes_;
      if (allocate && exact > 0) pages.exact = KvPages(exact, exact_bytes_);
      if (allocate) pages.stored = KvPages(stored, stored_bytes_);
      layers_.push_back(std::move(pages));
    }
  }

  static std::size_t lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  [[nodiscard]] int all_panels() const { return panels_of(shape_.capacity); }

  // Where everything lies in a layer's pages: codes first, then scales, then zero points. All
  // offsets are decided here.
  KvLayerPages describe(int layer) {
    KvLayerPages pages;
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const KvEntry e = policy_.entry(layer, head, shape_.kv_heads);
      pages.keys.push_back({{e.keys, shape_.head_dim}, e.key_clip});
      pages.values.push_back({{e.values, shape_.head_dim}, e.value_clip});
    }
    std::size_t exact = 0, stored = 0;
    const auto each = [&](auto&& place) {
      for (auto* planes : {&pages.keys, &pages.values}) {
        for (KvPlane& plane : *planes) place(plane, plane.panel.format.exact());
      }
    };
    const auto advance = [](std::size_t& at, std::size_t bytes) {
      const std::size_t begin = at;
      at += bytes;
      return begin;
    };
    each([&](KvPlane& plane, bool is_exact) {
      const std::size_t floats = static_cast<std::size_t>(plane.panel.floats()) * sizeof(float);
      (is_exact ? pages.floats : pages.rounds) = true;
      if (!is_exact) plane.exact_at = advance(exact, plane.exact_bytes(policy_.exact_type));
      if (is_exact) plane.codes_at = advance(stored, floats);
    });
    each([&](KvPlane& plane, bool is_exact) {
      if (!is_exact)
        plane.codes_at = advance(stored, static_cast<std::size_t>(plane.panel.code_bytes()));
    });
    each([&](KvPlane& plane, bool is_exact) {
      if (!is_exact) {
        plane.scales_at =
            advance(stored, static_cast<std::size_t>(plane.panel.parameters()) * sizeof(Half));
      }
    });
    each([&](KvPlane& plane, bool is_exact) {
      if (!is_exact)
        plane.zeros_at = advance(stored, static_cast<std::size_t>(plane.panel.zero_bytes()));
    });
    // Vector loads of the last row may pass its end by a few bytes: into the scales.
    exact_bytes_ = lines(exact), stored_bytes_ = lines(stored);
    pages.stored_first = pages.floats ? 0 : exact_below_ / kv_panel;
    return pages;
  }

  CacheShape shape_;
  KvPolicy policy_;
  int prompt_ = 0, exact_below_ = 0, window_ = 0, window_panels_ = 0;
  int living_ = 0, sequences_ = 1;
  std::vector<KvLayerPages> layers_;
  std::size_t planned_ = 0;
  std::size_t exact_bytes_ = 0, stored_bytes_ = 0;  // of the layer that is being described
};

}  // namespace bisup
