// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where does a cache keep its keys, or its values? In segments of 16-token panels: fixed (prompt
// and sinks, or everything), packed, and a ring of recent tokens; a chunk longer than the ring is
// staged until its queries have been answered. Which token belongs where is decided in
// kv_cache.hpp.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/pack/kv_store.hpp>
#include <bisup/pack/kv_view.hpp>

namespace bisup {

// Keys lie with tokens as lanes, values a token after the other: what each kernel reads.
enum class KvSide : std::uint8_t { keys, values };

class KvPlane {
 public:
  KvPlane() = default;
  // Throws std::bad_alloc.
  KvPlane(KvSide side, const CacheShape& shape, const KvPolicy& policy, int exact_below)
      : side_(side),
        panel_{side == KvSide::keys ? policy.keys : policy.values, shape.head_dim},
        clip_(policy.clip),
        kv_heads_(shape.kv_heads),
        exact_below_(exact_below),
        window_(policy.recent),
        ring_from_(static_cast<std::size_t>(shape.layers), exact_below) {
    const bool exact = panel_.format.exact();
    const int all = panels_of(shape.capacity);
    panels_[fixed] = exact ? all : panels_of(std::min(exact_below, shape.capacity));
    // Any window_ consecutive tokens touch at most this many panels.
    panels_[ring] = exact || policy.recent == 0
                        ? 0
                        : std::min((std::min(policy.recent, shape.capacity) + 14) / 16 + 1, all);
    const int last_packed = shape.capacity - std::min(policy.recent, shape.capacity);
    panels_[packed] = exact ? 0 : std::max(panels_of(last_packed) - packed_first(), 0);
    const auto heads =
        static_cast<std::size_t>(shape.layers) * static_cast<std::size_t>(shape.kv_heads);
    const auto total = [&](Segment s, int unit) {
      return heads * static_cast<std::size_t>(panels_[s]) * static_cast<std::size_t>(unit);
    };
    exact_[fixed] = AlignedBuffer<float>(total(fixed, panel_.floats()));
    exact_[ring] = AlignedBuffer<float>(total(ring, panel_.floats()));
    // Vector loads of the last row may pass its end.
    const std::size_t codes = total(packed, panel_.code_bytes());
    codes_ = AlignedBuffer<std::uint8_t>(
        codes == 0 ? 0 : codes + AlignedBuffer<std::uint8_t>::alignment);
    scales_ = AlignedBuffer<Half>(total(packed, panel_.parameters()));
    zeros_ = AlignedBuffer<std::uint8_t>(total(packed, panel_.parameters()));
  }

  // Tokens first ... first + rows - 1; those below `packed_end` are packed already (or fixed), and
  // those below `pack_to` are to be packed now. rows: [tokens, kv_heads * head_dim].
  void append(int layer, int first, MatrixRef<const float> rows, int packed_end, int pack_to) {
    const int end = first + rows.rows();
    if (panel_.format.exact()) {
      for (int head = 0; head < kv_heads_; ++head)
        write(fixed, layer, head, first, first, end, rows);
      return;
    }
    // The queries of these rows need the exact form of what came before, back to here.
    const int needed = std::max(first - window_ + 1, packed_end);
    const bool in_ring = window_ == 0 || end <= exact_below_ ||
                         (end - 1) / kv_panel - needed / kv_panel < panels_[ring];
    if (!in_ring) stage(layer, needed, end);
    for (int head = 0; head < kv_heads_; ++head) {
      write(fixed, layer, head, first, first, std::min(end, exact_below_), rows);
      if (!in_ring) {
        for (int p = needed / kv_panel; p * kv_panel < first; ++p) {
          std::copy_n(exact_panel(ring, layer, head, p), panel_.floats(),
                      exact_panel(staged, layer, head, p));
        }
        write(staged, layer, head, first, std::max(first, exact_below_), end, rows);
      }
      for (int token = packed_end; token < pack_to; ++token) {
        if (token < first) {
          read(layer, head, token);
        } else {
          std::copy_n(rows.row_data(token - first) + head * panel_.head_dim, panel_.head_dim,
                      row_.data());
        }
        pack(layer, head, token);
      }
      if (window_ > 0)
        write(ring, layer, head, first, std::max({first, exact_below_, in_ring ? 0 : pack_to}), end,
              rows);
    }
    ring_from_[static_cast<std::size_t>(layer)] = in_ring ? needed : pack_to;
    if (in_ring && staged_layer_ == layer) staged_layer_ = -1;
  }

  // The first token whose exact form the views still show.
  [[nodiscard]] int recent_from(int layer) const {
    return layer == staged_layer_ ? staged_from_ : ring_from_[static_cast<std::size_t>(layer)];
  }

  [[nodiscard]] KvPlaneView view(int layer, int head) const {
    const Segment recent = layer == staged_layer_ ? staged : ring;
    KvPlaneView v{.panel = panel_};
    v.fixed = exact_[fixed].data() + at(fixed, layer, head, 0) * unit(panel_.floats());
    v.recent_first = recent == staged ? staged_first_ : 0,
    v.recent_panels = std::max(panels_[recent], 1);
    v.recent =
        exact_[recent].data() + at(recent, layer, head, v.recent_first) * unit(panel_.floats());
    v.packed_first = packed_first();
    const std::size_t i = at(packed, layer, head, packed_first());
    v.codes = codes_.data() + i * unit(panel_.code_bytes());
    v.scales = scales_.data() + i * unit(panel_.parameters()),
    v.zeros = zeros_.data() + i * unit(panel_.parameters());
    return v;
  }

  // What `size` tokens need, of which the first packed_end are fixed or packed.
  [[nodiscard]] std::size_t used_bytes(int size, int packed_end) const {
    const auto exact_row = static_cast<std::size_t>(panel_.dim()) * sizeof(float);
    if (panel_.format.exact())
      return static_cast<std::size_t>(kv_heads_) * static_cast<std::size_t>(size) * exact_row;
    const int in_packed = std::max(std::min(size, packed_end) - exact_below_, 0);
    const auto packed_row = static_cast<std::size_t>(panel_.token_bytes() + 3 * panel_.groups());
    return static_cast<std::size_t>(kv_heads_) *
           (static_cast<std::size_t>(size - in_packed) * exact_row +
            static_cast<std::size_t>(in_packed) * packed_row);
  }
  // As the allocator sees it: every buffer is whole cache lines.
  [[nodiscard]] std::size_t allocated_bytes() const {
    const auto lines = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
    std::size_t bytes =
        lines(codes_.size()) + lines(scales_.size() * sizeof(Half)) + lines(zeros_.size());
    for (const auto& buffer : exact_) bytes += lines(buffer.size() * sizeof(float));
    return bytes;
  }

 private:
  enum Segment { fixed, ring, staged, packed };

  static std::size_t unit(int n) { return static_cast<std::size_t>(n); }
  static int panels_of(int tokens) { return (tokens + kv_panel - 1) / kv_panel; }
  [[nodiscard]] int packed_first() const { return exact_below_ / kv_panel; }

  // Where a panel lies in its segment, counted in panels. All offsets come from here.
  [[nodiscard]] std::size_t at(Segment segment, int layer, int head, int panel) const {
    const int count = panels_[segment];
    int slot = panel;
    if (segment == ring) slot = count == 0 ? 0 : panel % count;
    if (segment == staged) slot = panel - staged_first_, layer = 0;
    if (segment == packed) slot = panel - packed_first();
    const std::size_t first = unit(layer) * unit(kv_heads_) + unit(head);
    return first * unit(count) + unit(slot);
  }
  [[nodiscard]] float* exact_panel(Segment segment, int layer, int head, int panel) {
    return exact_[segment].data() + at(segment, layer, head, panel) * unit(panel_.floats());
  }

  // Tokens begin ... end - 1 of rows, whose first is token `first`.
  void write(Segment segment, int layer, int head, int first, int begin, int end,
             MatrixRef<const float> rows) {
    for (int token = begin; token < end; ++token) {
      const float* row = rows.row_data(token - first) + head * panel_.head_dim;
      float* into = exact_panel(segment, layer, head, token / kv_panel);
      const int lane = token % kv_panel;
      if (side_ == KvSide::keys) {
        for (int d = 0; d < panel_.head_dim; ++d) into[d * kv_panel + lane] = row[d];
      } else {
        std::copy_n(row, panel_.head_dim, into + lane * panel_.dim());
      }
    }
  }
  // A token of the ring into row_.
  void read(int layer, int head, int token) {
    const float* from = exact_panel(ring, layer, head, token / kv_panel);
    const int lane = token % kv_panel;
    for (int d = 0; d < panel_.head_dim; ++d) {
      row_[unit(d)] =
          side_ == KvSide::keys ? from[d * kv_panel + lane] : from[lane * panel_.dim() + d];
    }
  }
  void stage(int layer, int from, int end) {
    staged_layer_ = layer, staged_from_ = from, staged_first_ = from / kv_panel;
    panels_[staged] = panels_of(end) - staged_first_;
    const std::size_t floats = unit(kv_heads_) * unit(panels_[staged]) * unit(panel_.floats());
    if (exact_[staged].size() < floats) exact_[staged] = AlignedBuffer<float>(floats);
  }

  // Rounds row_ into the packed segment.
  void pack(int layer, int head, int token) {
    const AttentionKernels& kernels = attention_kernels();
    const Format format = panel_.format.format();
    const std::size_t index = at(packed, layer, head, token / kv_panel);
    const int lane = token % kv_panel;
    Half* scales = scales_.data() + index * unit(panel_.parameters()) + lane;
    std::uint8_t* zeros = zeros_.data() + index * unit(panel_.parameters()) + lane;
    for (int g = 0; g < panel_.groups(); ++g) {
      const int begin = g * panel_.group(), end = std::min(begin + panel_.group(), panel_.dim());
      const int count = std::min(end, panel_.head_dim) - begin;
      const Extremes e = kernels.extremes(row_.data() + begin, count);
      const GroupParameters p = parameters_for(format, e.low, e.high, clip_);
      const Rounding rounding{1.0f / p.scale, static_cast<float>(-p.zero),
                              static_cast<float>(format.highest() - p.zero), p.zero};
      kernels.round_group(row_.data() + begin, count, rounding, code_row_.data() + begin);
      std::fill(code_row_.data() + begin + count, code_row_.data() + end,
                static_cast<std::uint8_t>(p.zero));
      scales[g * kv_panel] = to_half(p.scale),
                 zeros[g * kv_panel] = static_cast<std::uint8_t>(p.zero);
    }
    std::uint8_t* codes = codes_.data() + index * unit(panel_.code_bytes());
    with_kv_bits(format.bits, [&]<int Bits>() {
      if (side_ == KvSide::keys) {
        store_key_codes<Bits>(code_row_.data(), panel_.dim(), lane, codes);
      } else {
        store_value_codes<Bits>(code_row_.data(), panel_.dim(),
                                codes + lane * panel_.token_bytes());
      }
    });
  }

  KvSide side_ = KvSide::keys;
  KvPanel panel_;
  Clip clip_;
  int kv_heads_ = 0, exact_below_ = 0, window_ = 0;
  std::array<int, 4> panels_{};                // of one head, by segment
  std::array<AlignedBuffer<float>, 3> exact_;  // fixed, ring, staged
  AlignedBuffer<std::uint8_t> codes_, zeros_;
  AlignedBuffer<Half> scales_;
  std::vector<int> ring_from_;  // by layer: the first token whose exact form is in the ring
  int staged_layer_ = -1, staged_from_ = 0, staged_first_ = 0;
  std::vector<float> row_ = std::vector<float>(unit(panel_.dim()));
  std::vector<std::uint8_t> code_row_ = std::vector<std::uint8_t>(unit(panel_.dim()));
};

}  // namespace bisup
