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
        kv_heads_(shape.kv_heads),
        exact_below_(exact_below),
        window_(policy.recent),
        ring_from_(static_cast<std::size_t>(shape.layers), exact_below) {
    const int all = panels_of(shape.capacity), window = std::min(policy.recent, shape.capacity);
    // Any `window` consecutive tokens touch at most this many panels.
    ring_panels_ = window == 0 ? 0 : std::min((window + 14) / 16 + 1, all);
    const int fixed_panels = panels_of(std::min(exact_below, shape.capacity)),
              packed_panels = std::max(panels_of(shape.capacity - window) - packed_first(), 0);
    std::size_t fixed_floats = 0, ring_floats = 0, codes = 0, parameters = 0;
    for (int i = 0; i < shape.layers * shape.kv_heads; ++i) {
      const KvEntry entry = policy.entry(i / kv_heads_, i % kv_heads_, kv_heads_);
      const bool keys = side == KvSide::keys;
      Head head{.panel = {keys ? entry.keys : entry.values, shape.head_dim},
                .clip = keys ? entry.key_clip : entry.value_clip};
      head.fixed = fixed_floats, head.ring = ring_floats, head.codes = codes;
      head.parameters = parameters;
      const bool exact = head.panel.format.exact();
      fixed_floats += unit(exact ? all : fixed_panels) * unit(head.panel.floats());
      if (!exact) {
        ring_floats += unit(ring_panels_) * unit(head.panel.floats());
        codes += unit(packed_panels) * unit(head.panel.code_bytes());
        parameters += unit(packed_panels) * unit(head.panel.parameters());
      }
      heads_.push_back(head);
    }
    exact_[fixed] = AlignedBuffer<float>(fixed_floats);
    exact_[ring] = AlignedBuffer<float>(ring_floats);
    // Vector loads of the last row may pass its end.
    codes_ = AlignedBuffer<std::uint8_t>(
        codes == 0 ? 0 : codes + AlignedBuffer<std::uint8_t>::alignment);
    scales_ = AlignedBuffer<Half>(parameters);
    zeros_ = AlignedBuffer<std::uint8_t>(parameters);
    row_.resize(unit(heads_[0].panel.dim())), code_row_.resize(row_.size());
  }

  // Tokens first ... first + rows - 1; those below `packed_end` are packed already (or fixed), and
  // those below `pack_to` are to be packed now. rows: [tokens, kv_heads * head_dim].
  void append(int layer, int first, MatrixRef<const float> rows, int packed_end, int pack_to) {
    const int end = first + rows.rows();
    // The queries of these rows need the exact form of what came before, back to here.
    const int needed = std::max(first - window_ + 1, packed_end);
    const bool in_ring = all_exact(layer) || window_ == 0 || end <= exact_below_ ||
                         (end - 1) / kv_panel - needed / kv_panel < ring_panels_;
    if (!in_ring) stage(layer, needed, end);
    for (int head = 0; head < kv_heads_; ++head) {
      const KvPanel& panel = this->head(layer, head).panel;
      if (panel.format.exact()) {
        write(fixed, layer, head, first, first, end, rows);
        continue;
      }
      write(fixed, layer, head, first, first, std::min(end, exact_below_), rows);
      if (!in_ring) {
        for (int p = needed / kv_panel; p * kv_panel < first; ++p) {
          std::copy_n(exact_panel(ring, layer, head, p), panel.floats(),
                      exact_panel(staged, layer, head, p));
        }
        write(staged, layer, head, first, std::max(first, exact_below_), end, rows);
      }
      for (int token = packed_end; token < pack_to; ++token) {
        if (token < first) {
          read(layer, head, token);
        } else {
          std::copy_n(rows.row_data(token - first) + head * panel.head_dim, panel.head_dim,
                      row_.data());
        }
        pack(layer, head, token);
      }
      if (window_ > 0)
        write(ring, layer, head, first, std::max({first, exact_below_, in_ring ? 0 : pack_to}), end,
              rows);
    }
    ring_from_[unit(layer)] = in_ring ? needed : pack_to;
    if (in_ring && staged_layer_ == layer) staged_layer_ = -1;
  }

  // The first token whose exact form the views still show.
  [[nodiscard]] int recent_from(int layer) const {
    if (all_exact(layer)) return 0;
    return layer == staged_layer_ ? staged_from_ : ring_from_[unit(layer)];
  }

  [[nodiscard]] KvPlaneView view(int layer, int head) const {
    const Head& h = this->head(layer, head);
    KvPlaneView v{.panel = h.panel};
    v.fixed = exact_[fixed].data() + h.fixed;
    if (h.panel.format.exact()) return v;
    const Segment recent = layer == staged_layer_ ? staged : ring;
    v.recent_first = recent == staged ? staged_first_ : 0;
    v.recent_panels = recent == staged ? staged_panels_ : std::max(ring_panels_, 1);
    v.recent = exact_[recent].data() + exact_at(recent, layer, head, v.recent_first);
    v.packed_first = packed_first();
    v.codes = codes_.data() + h.codes;
    v.scales = scales_.data() + h.parameters, v.zeros = zeros_.data() + h.parameters;
    return v;
  }

  // What `size` tokens of a layer need, of which the first packed_end are fixed or packed.
  [[nodiscard]] std::size_t used_bytes(int layer, int size, int packed_end) const {
    const int in_packed = std::max(std::min(size, packed_end) - exact_below_, 0);
    std::size_t bytes = 0;
    for (int head = 0; head < kv_heads_; ++head) {
      const KvPanel& panel = this->head(layer, head).panel;
      const std::size_t exact_row = unit(panel.dim()) * sizeof(float);
      const bool exact = panel.format.exact();
      bytes += unit(exact ? size : size - in_packed) * exact_row;
      if (!exact) bytes += unit(in_packed) * unit(panel.token_bytes() + 3 * panel.groups());
    }
    return bytes;
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
  enum Segment { fixed, ring, staged };

  // One layer and KV head: its format, and where its panels begin in each segment.
  struct Head {
    KvPanel panel;
    Clip clip;
    std::size_t fixed = 0, ring = 0, codes = 0, parameters = 0;
  };

  static std::size_t unit(int n) { return static_cast<std::size_t>(n); }
  static int panels_of(int tokens) { return (tokens + kv_panel - 1) / kv_panel; }
  [[nodiscard]] int packed_first() const { return exact_below_ / kv_panel; }
  [[nodiscard]] const Head& head(int layer, int head) const {
    return heads_[unit(layer * kv_heads_ + head)];
  }
  [[nodiscard]] bool all_exact(int layer) const {
    for (int i = 0; i < kv_heads_; ++i) {
      if (!head(layer, i).panel.format.exact()) return false;
    }
    return true;
  }

  // Where an exact panel lies in its segment, counted in floats.
  [[nodiscard]] std::size_t exact_at(Segment segment, int layer, int head, int panel) const {
    const Head& h = this->head(layer, head);
    const std::size_t floats = unit(h.panel.floats());
    if (segment == fixed) return h.fixed + unit(panel) * floats;
    if (segment == ring)
      return h.ring + unit(ring_panels_ == 0 ? 0 : panel % ring_panels_) * floats;
    return (unit(head) * unit(staged_panels_) + unit(panel - staged_first_)) * floats;
  }
  [[nodiscard]] float* exact_panel(Segment segment, int layer, int head, int panel) {
    return exact_[segment].data() + exact_at(segment, layer, head, panel);
  }

  // Tokens begin ... end - 1 of rows, whose first is token `first`.
  void write(Segment segment, int layer, int head, int first, int begin, int end,
             MatrixRef<const float> rows) {
    const KvPanel& panel = this->head(layer, head).panel;
    for (int token = begin; token < end; ++token) {
      const float* row = rows.row_data(token - first) + head * panel.head_dim;
      float* into = exact_panel(segment, layer, head, token / kv_panel);
      const int lane = token % kv_panel;
      if (side_ == KvSide::keys) {
        for (int d = 0; d < panel.head_dim; ++d) into[d * kv_panel + lane] = row[d];
      } else {
        std::copy_n(row, panel.head_dim, into + lane * panel.dim());
      }
    }
  }
  // A token of the ring into row_.
  void read(int layer, int head, int token) {
    const KvPanel& panel = this->head(layer, head).panel;
    const float* from = exact_panel(ring, layer, head, token / kv_panel);
    const int lane = token % kv_panel;
    for (int d = 0; d < panel.head_dim; ++d) {
      row_[unit(d)] =
          side_ == KvSide::keys ? from[d * kv_panel + lane] : from[lane * panel.dim() + d];
    }
  }
  void stage(int layer, int from, int end) {
    staged_layer_ = layer, staged_from_ = from, staged_first_ = from / kv_panel;
    staged_panels_ = panels_of(end) - staged_first_;
    const std::size_t floats =
        unit(kv_heads_) * unit(staged_panels_) * unit(heads_[0].panel.floats());
    if (exact_[staged].size() < floats) exact_[staged] = AlignedBuffer<float>(floats);
  }

  // Rounds row_ into the packed segment.
  void pack(int layer, int head, int token) {
    const AttentionKernels& kernels = attention_kernels();
    const Head& h = this->head(layer, head);
    const KvPanel& panel = h.panel;
    const Format format = panel.format.format();
    const std::size_t slot = unit(token / kv_panel - packed_first());
    const int lane = token % kv_panel;
    Half* scales = scales_.data() + h.parameters + slot * unit(panel.parameters()) + lane;
    std::uint8_t* zeros = zeros_.data() + h.parameters + slot * unit(panel.parameters()) + lane;
    for (int g = 0; g < panel.groups(); ++g) {
      const int begin = g * panel.group(), end = std::min(begin + panel.group(), panel.dim());
      const int count = std::min(end, panel.head_dim) - begin;
      const Extremes e = kernels.extremes(row_.data() + begin, count);
      const GroupParameters p = parameters_for(format, e.low, e.high, h.clip);
      const Rounding rounding{1.0f / p.scale, static_cast<float>(-p.zero),
                              static_cast<float>(format.highest() - p.zero), p.zero};
      kernels.round_group(row_.data() + begin, count, rounding, code_row_.data() + begin);
      std::fill(code_row_.data() + begin + count, code_row_.data() + end,
                static_cast<std::uint8_t>(p.zero));
      scales[g * kv_panel] = to_half(p.scale),
                 zeros[g * kv_panel] = static_cast<std::uint8_t>(p.zero);
    }
    std::uint8_t* codes = codes_.data() + h.codes + slot * unit(panel.code_bytes());
    with_kv_bits(format.bits, [&]<int Bits>() {
      if (side_ == KvSide::keys) {
        store_key_codes<Bits>(code_row_.data(), panel.dim(), lane, codes);
      } else {
        store_value_codes<Bits>(code_row_.data(), panel.dim(), codes + lane * panel.token_bytes());
      }
    });
  }

  KvSide side_ = KvSide::keys;
  int kv_heads_ = 0, exact_below_ = 0, window_ = 0;
  std::vector<Head> heads_;  // [layers * kv_heads]
  int ring_panels_ = 0;      // of one head
  std::array<AlignedBuffer<float>, 3> exact_;
  AlignedBuffer<std::uint8_t> codes_, zeros_;
  AlignedBuffer<Half> scales_;
  std::vector<int> ring_from_;  // by layer: the first token whose exact form is in the ring
  int staged_layer_ = -1, staged_from_ = 0, staged_first_ = 0, staged_panels_ = 0;
  std::vector<float> row_;
  std::vector<std::uint8_t> code_row_;
};

}  // namespace bisup
