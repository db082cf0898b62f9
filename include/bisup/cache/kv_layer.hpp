// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does one sequence remember in one layer? Its pages by panel, which tokens are packed
// already, and a staging area for chunks that are longer than the window. kv_cache.hpp is all
// layers together; kv_rounding.hpp makes the codes.

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include <bisup/cache/kv_append.hpp>
#include <bisup/cache/kv_exact.hpp>
#include <bisup/cache/kv_pool.hpp>
#include <bisup/cache/kv_rounding.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

// Keys are rounded without the mean of so many tokens, or of a shorter window.
inline constexpr int center_tokens = 64;

class KvLayer {
 public:
  explicit KvLayer(const KvPool& pool)
      : packed_end_(pool.exact_below()),
        forgotten_(pool.exact_below()),
        written_(pool.exact_below()),
        exact_from_(pool.exact_below()) {}

  [[nodiscard]] int size() const noexcept { return size_; }
  // Tokens exact_below ... packed_end - 1 are packed; those before `forgotten` were so before the
  // last append.
  [[nodiscard]] int packed_end() const noexcept { return packed_end_; }
  [[nodiscard]] int forgotten() const noexcept { return forgotten_; }
  [[nodiscard]] int last_append() const noexcept { return last_append_; }
  // The first token of the window whose exact form the views still show.
  [[nodiscard]] int exact_from(int layer, const KvPool& pool, const KvStaging& staging) const {
    if (!pool.layer(layer).rounds) return 0;
    return layer == staging.layer ? staging.from : exact_from_;
  }

  // An append has two passes over panels, those of each in any order or at once: begin(), round()
  // each of `rounded`, settle(), keep() each of `kept`. keys, values: [tokens, kv_heads *
  // head_dim], in the form that is stored.
  [[nodiscard]] KvAppend begin(int layer, MatrixRef<const float> keys,
                               MatrixRef<const float> values, KvPool& pool, KvStaging& staging) {
    KvLayerPages& pages = pool.layer(layer);
    const int window = pool.window(), first = size_, end = first + keys.rows();
    KvAppend a{.layer = layer, .first = first, .end = end, .rows = {keys, values}};
    a.pack_to = std::max(packed_end_, end - window), a.exact_from = a.pack_to;
    if (pages.rounds) {
      // The queries of these rows need the exact form of what came before, back to here.
      const int needed = std::max(first - window + 1, packed_end_);
      a.staged = window > 0 && end > pool.exact_below() &&
                 (end - 1) / kv_panel - needed / kv_panel >= pool.window_panels();
      if (a.staged) {
        stage(a, needed, pool, staging);
      } else {
        a.exact_from = needed;
      }
      const bool packs = a.pack_to > packed_end_;
      if (pool.policy().center_keys && packed_end_ == pool.exact_below() && packs)
        find_center(a, pool);
      const int leaves = packed_end_ / kv_panel, left = packs ? panels_of(a.pack_to) : leaves;
      for (int p = leaves; p < left; ++p) pages.stored.own(page(stored_, p));
      a.rounded = {leaves, (a.staged ? panels_of(end) : left) - leaves};
    }
    const int kept = pages.floats || first < pool.exact_below() ? first
                     : window > 0                               ? std::max(first, a.exact_from)
                                                                : end;
    if (kept < end) a.kept = {kept / kv_panel, panels_of(end) - kept / kv_panel};
    if (pages.floats) {
      for (int p = first / kv_panel; p < panels_of(end); ++p) pages.stored.own(page(stored_, p));
    }
    return a;
  }
  // Rounds what leaves the window, and stages what a chunk's queries need of it.
  void round(const KvAppend& a, int panel, const KvPool& pool, KvStaging& staging) const {
    if (a.staged) stage_panel(a, panel, pool, staging);
    pack_panel(a, panel, pool);
  }
  void settle(const KvAppend& a, KvPool& pool, KvStaging& staging) {
    KvLayerPages& pages = pool.layer(a.layer);
    if (pages.rounds) {
      if (a.pack_to > packed_end_) {
        written_ =
            std::max(written_, has_channels(pages) ? panels_of(a.pack_to) * kv_panel : a.pack_to);
      }
      turn_exact(a, pool);
      if (!a.staged && staging.layer == a.layer) staging = {};
    }
    forgotten_ = std::exchange(packed_end_, a.pack_to);
    size_ = a.end, last_append_ = a.end - a.first;
  }
  // Writes what stays exact.
  void keep(const KvAppend& a, int panel, const KvPool& pool) const {
    const KvLayerPages& pages = pool.layer(a.layer);
    const int last = std::min(a.end, (panel + 1) * kv_panel);
    for (int token = std::max(a.first, panel * kv_panel); token < last; ++token) {
      const bool exact = pages.rounds && stays_exact(a, token, pool);
      each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
        const float* row = a.row(side, head, plane.panel, token);
        const auto p = static_cast<std::size_t>(panel);
        if (plane.panel.format.exact()) {
          write_exact(side, plane.panel, DType::f32, row, token % kv_panel,
                      stored_[p] + plane.codes_at);
        } else if (exact) {
          write_exact(side, plane.panel, pool.policy().exact_type, row, token % kv_panel,
                      exact_[p] + plane.exact_at);
        }
      });
    }
  }

  // Keeps the first `tokens`.
  void truncate(int layer, int tokens, KvPool& pool) {
    KvLayerPages& pages = pool.layer(layer);
    size_ = tokens, last_append_ = 0;
    packed_end_ = std::max(std::min(packed_end_, tokens), pool.exact_below());
    forgotten_ = packed_end_;
    written_ = std::max(std::min(written_, tokens), pool.exact_below());
    drop_from(panels_of(tokens), exact_, pages.exact);
    const int stored = pages.floats                     ? panels_of(tokens)
                       : written_ == pool.exact_below() ? 0
                                                        : panels_of(written_);
    drop_from(stored, stored_, pages.stored);
  }
  // Another sequence's layer that holds what this one holds.
  [[nodiscard]] KvLayer fork(int layer, KvPool& pool) const {
    KvLayerPages& pages = pool.layer(layer);
    KvLayer copy(pool);
    copy.size_ = size_, copy.packed_end_ = copy.forgotten_ = packed_end_;
    copy.written_ = written_, copy.exact_from_ = exact_from_;
    copy.exact_ = exact_, copy.stored_ = stored_;
    if (center_.size() > 0) {
      copy.center_ = AlignedBuffer<float>(center_.size());
      std::copy_n(center_.data(), center_.size(), copy.center_.data());
    }
    for (const std::byte* page : exact_) {
      if (page != nullptr) pages.exact.hold(page);
    }
    for (const std::byte* page : stored_) {
      if (page != nullptr) pages.stored.hold(page);
    }
    return copy;
  }
  void release(int layer, KvPool& pool) {
    drop_from(0, exact_, pool.layer(layer).exact), drop_from(0, stored_, pool.layer(layer).stored);
  }

  // Valid until the next append, truncation or move.
  [[nodiscard]] KvPlaneView view(int layer, KvSide side, int head, const KvPool& pool,
                                 const KvStaging& staging) const {
    const KvPlane& plane = pool.layer(layer).plane(side, head);
    KvPlaneView v{.panel = plane.panel,
                  .exact = exact_.data(),
                  .stored = stored_.data(),
                  .exact_at = plane.exact_at,
                  .codes_at = plane.codes_at,
                  .scales_at = plane.scales_at,
                  .zeros_at = plane.zeros_at,
                  .exact_type = pool.policy().exact_type};
    if (plane.panel.format.exact()) return v;
    if (layer == staging.layer) {
      v.staged = staging.floats.data() + staging.at(side, head, pool.shape().kv_heads, plane.panel);
      v.staged_first = staging.first;
    }
    v.center = side == KvSide::keys && center_.size() > 0
                   ? center_.data() + head * plane.panel.dim()
                   : no_center;
    if (plane.panel.format.zero == Zero::symmetric)
      v.same_zeros = symmetric_zeros(plane.panel.format.bits);
    return v;
  }

  // Pages that `tokens` more will take from the stored ones of the pool, copies of shared ones
  // included.
  [[nodiscard]] int pages_for(int layer, int tokens, const KvPool& pool) const {
    const KvLayerPages& pages = pool.layer(layer);
    const int end = size_ + tokens;
    const int to = pages.floats ? end
                   : std::max(written_, end - pool.window()) > pool.exact_below()
                       ? std::max(written_, end - pool.window())
                       : 0;
    const int from = std::min(pages.floats ? size_ : written_, pages.rounds ? written_ : end);
    int count = 0;
    for (int p = from / kv_panel; p < panels_of(to); ++p) {
      const std::byte* page =
          p < static_cast<int>(stored_.size()) ? stored_[static_cast<std::size_t>(p)] : nullptr;
      count += page == nullptr || pages.stored.shared(page) ? 1 : 0;
    }
    return count;
  }

  // What the tokens need, in the fewest bytes.
  [[nodiscard]] std::size_t used_bytes(int layer, const KvPool& pool) const {
    const KvLayerPages& pages = pool.layer(layer);
    const int rounded = std::max(std::min(size_, packed_end_) - pool.exact_below(), 0);
    std::size_t bytes = rounded > 0 ? center_.size() * sizeof(float) : 0;
    for (const auto* planes : {&pages.keys, &pages.values}) {
      for (const KvPlane& plane : *planes) {
        const KvPanel& panel = plane.panel;
        const bool exact = panel.format.exact();
        const auto n = [](int count) { return static_cast<std::size_t>(count); };
        bytes += n(exact ? size_ : size_ - rounded) * n(panel.dim()) *
                 n(bytes_of(exact ? DType::f32 : pool.policy().exact_type));
        if (exact) continue;
        const std::size_t parameters = sizeof(Half) + (panel.format.zero == Zero::affine ? 1 : 0);
        bytes += n(rounded) * n(panel.token_bytes());
        bytes +=
            parameters *
            (panel.format.channels
                 ? n(rounded == 0 ? 0 : panels_of(packed_end_) - pool.exact_below() / kv_panel) *
                       n(panel.dim())
                 : n(rounded) * n(panel.groups()));
      }
    }
    return bytes;
  }
  [[nodiscard]] std::size_t center_floats() const noexcept { return center_.size(); }

 private:
  using Pages = std::vector<std::byte*>;
  static constexpr float no_center[4096] = {};

  static const std::uint8_t* symmetric_zeros(int bits) {
    static const auto zeros = [] {
      std::array<std::array<std::uint8_t, 4096>, 9> all{};
      for (std::size_t b = 1; b < 9; ++b) all[b].fill(static_cast<std::uint8_t>(1u << (b - 1)));
      return all;
    }();
    return zeros[static_cast<std::size_t>(bits)].data();
  }

  static std::byte*& page(Pages& pages, int panel) {
    if (static_cast<int>(pages.size()) <= panel)
      pages.resize(static_cast<std::size_t>(panel) + 1, nullptr);
    return pages[static_cast<std::size_t>(panel)];
  }
  static void drop_from(int panel, Pages& pages, KvPages& memory) {
    for (int p = panel; p < static_cast<int>(pages.size()); ++p)
      memory.release(pages[static_cast<std::size_t>(p)]);
    pages.resize(std::min(pages.size(), static_cast<std::size_t>(panel)));
  }

  template <class Visit>
  static void each_plane(const KvLayerPages& pages, Visit visit) {
    for (const KvSide side : {KvSide::keys, KvSide::values}) {
      for (int head = 0; head < static_cast<int>(pages.keys.size()); ++head)
        visit(side, head, pages.plane(side, head));
    }
  }

  // A token's exact form, from the rows of this append or from its page; [head_dim].
  void read_row(const KvAppend& a, KvSide side, int head, const KvPlane& plane, int token,
                const KvPool& pool, float* row) const {
    const KvPanel& panel = plane.panel;
    const DType type = pool.policy().exact_type;
    if (token >= a.first) {
      std::copy_n(a.row(side, head, panel, token), panel.head_dim, row);
      // As it would come out of a page, had it come alone.
      if (pool.window() > 0) round_exact(type, {row, static_cast<std::size_t>(panel.head_dim)});
      return;
    }
    read_exact(side, panel, type,
               exact_[static_cast<std::size_t>(token / kv_panel)] + plane.exact_at,
               token % kv_panel, row);
  }

  // Room for the exact panels that the chunk's queries need.
  static void stage(const KvAppend& a, int from, const KvPool& pool, KvStaging& staging) {
    const KvPanel& any = pool.layer(a.layer).keys[0].panel;
    staging.layer = a.layer, staging.from = from, staging.first = from / kv_panel;
    staging.panels = panels_of(a.end) - staging.first;
    const std::size_t floats =
        static_cast<std::size_t>(2 * pool.shape().kv_heads * staging.panels) *
        static_cast<std::size_t>(any.floats());
    if (staging.floats.size() < floats) staging.floats = AlignedBuffer<float>(floats);
  }
  void stage_panel(const KvAppend& a, int panel, const KvPool& pool, KvStaging& staging) const {
    if (panel < staging.first) return;
    const KvLayerPages& pages = pool.layer(a.layer);
    const KvPanel& any = pages.keys[0].panel;
    std::vector<float> row(static_cast<std::size_t>(any.head_dim));
    const auto p = static_cast<std::size_t>(panel);
    // None of tokens that were packed before a truncation.
    const std::byte* page = panel < panels_of(a.first) && p < exact_.size() ? exact_[p] : nullptr;
    const int begin = std::max(a.first, panel * kv_panel),
              end = std::min(a.end, (panel + 1) * kv_panel);
    each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
      if (plane.panel.format.exact()) return;
      float* into = staging.floats.data() +
                    staging.at(side, head, pool.shape().kv_heads, plane.panel) +
                    (panel - staging.first) * any.floats();
      if (page != nullptr) {
        attention_kernels().widen[static_cast<std::size_t>(pool.policy().exact_type)](
            page + plane.exact_at, any.floats(), into);
      }
      for (int token = begin; token < end; ++token) {
        read_row(a, side, head, plane, token, pool, row.data());
        write_exact(side, any, DType::f32, row.data(), token % kv_panel, into);
      }
    });
  }

  // The mean of the window's first tokens, at the moment when the first of them leaves it: the same
  // however they came.
  void find_center(const KvAppend& a, const KvPool& pool) {
    const KvLayerPages& pages = pool.layer(a.layer);
    const KvPanel& any = pages.keys[0].panel;
    const int tokens = std::min(pool.window(), center_tokens);
    if (center_.size() == 0) {
      center_ = AlignedBuffer<float>(pages.keys.size() * static_cast<std::size_t>(any.dim()));
    }
    std::vector<float> row(static_cast<std::size_t>(any.dim()));
    std::vector<double> sum(row.size());
    for (int head = 0; head < static_cast<int>(pages.keys.size()); ++head) {
      const KvPlane& plane = pages.keys[static_cast<std::size_t>(head)];
      if (plane.panel.format.exact()) continue;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int t = 0; t < tokens; ++t) {
        read_row(a, KvSide::keys, head, plane, pool.exact_below() + t, pool, row.data());
        for (std::size_t d = 0; d < row.size(); ++d) sum[d] += static_cast<double>(row[d]);
      }
      for (std::size_t d = 0; d < row.size(); ++d)
        center_[static_cast<std::size_t>(head) * row.size() + d] =
            static_cast<float>(sum[d] / tokens);
    }
  }

  // A token as it is rounded.
  void rounding_row(const KvAppend& a, KvSide side, int head, const KvPlane& plane, int token,
                    const KvPool& pool, float* row) const {
    read_row(a, side, head, plane, token, pool, row);
    if (side != KvSide::keys || center_.size() == 0) return;
    const float* center = center_.data() + head * plane.panel.dim();
    for (int d = 0; d < plane.panel.head_dim; ++d) row[d] -= center[d];
  }

  void pack_panel(const KvAppend& a, int panel, const KvPool& pool) const {
    const int token = std::max(packed_end_, panel * kv_panel), end = (panel + 1) * kv_panel,
              to = std::min(end, a.pack_to), begin = std::max(panel * kv_panel, pool.exact_below());
    if (token >= to) return;
    const KvLayerPages& pages = pool.layer(a.layer);
    Matrix<float> rows(kv_panel, pages.keys[0].panel.dim());
    Matrix<std::uint8_t> codes(kv_panel, rows.cols());
    each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
      const KvFormat& format = plane.panel.format;
      if (format.exact()) return;
      const KvPanelWriter writer(side, plane, pool.policy().fit_scales,
                                 stored_[static_cast<std::size_t>(panel)]);
      // By channels a panel is rounded when its first token leaves; the window has the others.
      const int from = format.channels ? std::max(token, written_) : token;
      const int last = format.channels ? end : to;
      for (int t = from; t < last; ++t) {
        const int lane = t - panel * kv_panel;
        rounding_row(a, side, head, plane, t, pool, rows.row(lane).data());
        if (!format.channels) writer.token(std::as_const(rows).row(lane), lane, codes.row(0));
      }
      if (format.channels && from < last) {
        writer.channels(std::as_const(rows).ref(), from - panel * kv_panel, kv_panel, from > begin,
                        codes.ref());
      }
    });
  }
  static bool has_channels(const KvLayerPages& pages) {
    return std::any_of(pages.keys.begin(), pages.keys.end(),
                       [](const KvPlane& plane) { return plane.panel.format.channels; });
  }

  // The prompt and the sinks do, and tokens of the window.
  static bool stays_exact(const KvAppend& a, int token, const KvPool& pool) {
    return token < pool.exact_below() || (pool.window() > 0 && token >= a.exact_from);
  }
  // Lets go of the exact pages that nothing needs, and takes those of new tokens.
  void turn_exact(const KvAppend& a, KvPool& pool) {
    KvPages& pages = pool.layer(a.layer).exact;
    for (int p = panels_of(pool.exact_below());
         p < static_cast<int>(exact_.size()) && (p + 1) * kv_panel <= a.exact_from; ++p) {
      pages.release(exact_[static_cast<std::size_t>(p)]);
    }
    for (int token = a.first; token < a.end; ++token) {
      if (stays_exact(a, token, pool)) pages.own(page(exact_, token / kv_panel));
    }
    exact_from_ = a.exact_from;
  }

  int size_ = 0, packed_end_ = 0, forgotten_ = 0, last_append_ = 0;
  int written_ = 0;     // tokens below have codes
  int exact_from_ = 0;  // the first token whose exact form is in the window's pages
  Pages exact_, stored_;
  AlignedBuffer<float> center_;  // [kv_heads, dim], once it is known
};

}  // namespace bisup
