// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does one sequence remember in one layer? Its pages by panel, which tokens are packed
// already, and a staging area for chunks that are longer than the window. kv_cache.hpp is all
// layers together; kv_rounding.hpp makes the codes.

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <bisup/cache/kv_exact.hpp>
#include <bisup/cache/kv_pool.hpp>
#include <bisup/cache/kv_rounding.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

// The exact panels of one layer while its queries need more of them than the window holds, as f32.
struct KvStaging {
  int layer = -1, from = 0, first = 0, panels = 0;  // tokens from `from`, panels from `first`
  AlignedBuffer<float> floats;                      // [keys, values][kv_heads][panels]

  [[nodiscard]] std::size_t at(KvSide side, int head, int kv_heads, const KvPanel& panel) const {
    const int which = (side == KvSide::keys ? 0 : kv_heads) + head;
    return static_cast<std::size_t>(which) * static_cast<std::size_t>(panels) *
           static_cast<std::size_t>(panel.floats());
  }
};

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

  // The next tokens, [tokens, kv_heads * head_dim], in the form that is stored.
  void append(int layer, MatrixRef<const float> keys, MatrixRef<const float> values, KvPool& pool,
              KvStaging& staging) {
    KvLayerPages& pages = pool.layer(layer);
    const int first = size_, end = first + keys.rows(), window = pool.window();
    const int pack_to = std::max(packed_end_, end - window);
    const Append a{layer, first, end, pack_to, {keys, values}};
    if (pages.rounds) {
      // The queries of these rows need the exact form of what came before, back to here.
      const int needed = std::max(first - window + 1, packed_end_);
      const bool fits = window == 0 || end <= pool.exact_below() ||
                        (end - 1) / kv_panel - needed / kv_panel < pool.window_panels();
      if (!fits) stage(a, needed, pool, staging);
      if (pool.policy().center_keys && packed_end_ == pool.exact_below() && pack_to > packed_end_)
        find_center(a, pool);
      pack(a, pool);
      keep_exact(a, fits ? needed : pack_to, pool);
      if (fits && staging.layer == layer) staging = {};
    }
    if (pages.floats) keep_floats(a, pool);
    forgotten_ = std::exchange(packed_end_, pack_to);
    size_ = end, last_append_ = keys.rows();
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
  struct Append {
    int layer, first, end, pack_to;
    std::array<MatrixRef<const float>, 2> rows;  // keys, values
    [[nodiscard]] MatrixRef<const float> of(KvSide side) const {
      return rows[side == KvSide::keys ? 0 : 1];
    }
    [[nodiscard]] const float* row(KvSide side, int head, const KvPanel& panel, int token) const {
      return of(side).row_data(token - first) + head * panel.head_dim;
    }
  };
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
  static void each_plane(KvLayerPages& pages, Visit visit) {
    for (const KvSide side : {KvSide::keys, KvSide::values}) {
      for (int head = 0; head < static_cast<int>(pages.keys.size()); ++head)
        visit(side, head, pages.plane(side, head));
    }
  }

  // A token's exact form, from the rows of this append or from its page; [head_dim].
  void read_row(const Append& a, KvSide side, int head, const KvPlane& plane, int token,
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

  // Gathers the exact panels that the chunk's queries need.
  void stage(const Append& a, int from, KvPool& pool, KvStaging& staging) const {
    KvLayerPages& pages = pool.layer(a.layer);
    const KvPanel& any = pages.keys[0].panel;
    const DType type = pool.policy().exact_type;
    const int kv_heads = pool.shape().kv_heads;
    std::vector<float> row(static_cast<std::size_t>(any.head_dim));
    staging.layer = a.layer, staging.from = from, staging.first = from / kv_panel;
    staging.panels = panels_of(a.end) - staging.first;
    const std::size_t floats = static_cast<std::size_t>(2 * kv_heads * staging.panels) *
                               static_cast<std::size_t>(any.floats());
    if (staging.floats.size() < floats) staging.floats = AlignedBuffer<float>(floats);
    each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
      if (plane.panel.format.exact()) return;
      float* into = staging.floats.data() + staging.at(side, head, kv_heads, plane.panel);
      const int begin = staging.first * kv_panel;
      const int held = std::min(panels_of(a.first), static_cast<int>(exact_.size()));
      for (int p = staging.first; p < held; ++p) {
        const std::byte* page = exact_[static_cast<std::size_t>(p)];
        if (page == nullptr) continue;  // of tokens that were packed before a truncation
        attention_kernels().widen[static_cast<std::size_t>(type)](
            page + plane.exact_at, any.floats(), into + (p - staging.first) * any.floats());
      }
      for (int token = std::max(a.first, begin); token < a.end; ++token) {
        read_row(a, side, head, plane, token, pool, row.data());
        write_exact(side, any, DType::f32, row.data(), token % kv_panel,
                    into + (token / kv_panel - staging.first) * any.floats());
      }
    });
  }

  // The mean of the window's first tokens, at the moment when the first of them leaves it: the same
  // however they came.
  void find_center(const Append& a, KvPool& pool) {
    KvLayerPages& pages = pool.layer(a.layer);
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
  void rounding_row(const Append& a, KvSide side, int head, const KvPlane& plane, int token,
                    const KvPool& pool, float* row) const {
    read_row(a, side, head, plane, token, pool, row);
    if (side != KvSide::keys || center_.size() == 0) return;
    const float* center = center_.data() + head * plane.panel.dim();
    for (int d = 0; d < plane.panel.head_dim; ++d) row[d] -= center[d];
  }

  // Rounds what leaves the window with this append.
  void pack(const Append& a, KvPool& pool) {
    KvLayerPages& pages = pool.layer(a.layer);
    const int dim = pages.keys[0].panel.dim();
    Matrix<float> rows(kv_panel, dim);
    Matrix<std::uint8_t> codes(kv_panel, dim);
    int written = written_;
    for (int token = packed_end_; token < a.pack_to;) {
      const int panel = token / kv_panel, end = (panel + 1) * kv_panel;
      const int begin = std::max(panel * kv_panel, pool.exact_below());
      std::byte*& page = this->page(stored_, panel);
      pages.stored.own(page);
      const int to = std::min(end, a.pack_to);
      each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
        const KvFormat& format = plane.panel.format;
        if (format.exact()) return;
        const KvPanelWriter writer(side, plane, pool.policy().fit_scales, page);
        // By channels a panel is rounded when its first token leaves; the window has the others.
        const int from = format.channels ? std::max(token, written_) : token;
        const int last = format.channels ? end : to;
        for (int t = from; t < last; ++t) {
          const int lane = t - panel * kv_panel;
          rounding_row(a, side, head, plane, t, pool, rows.row(lane).data());
          if (!format.channels) writer.token(std::as_const(rows).row(lane), lane, codes.row(0));
        }
        if (format.channels && from < last) {
          writer.channels(std::as_const(rows).ref(), from - panel * kv_panel, kv_panel,
                          from > begin, codes.ref());
        }
      });
      written = std::max(written, has_channels(pages) ? end : to);
      token = to;
    }
    written_ = written;
  }
  static bool has_channels(const KvLayerPages& pages) {
    return std::any_of(pages.keys.begin(), pages.keys.end(),
                       [](const KvPlane& plane) { return plane.panel.format.channels; });
  }

  // Exact pages after this append: the prompt and the sinks, and tokens from `from` on.
  void keep_exact(const Append& a, int from, KvPool& pool) {
    KvLayerPages& pages = pool.layer(a.layer);
    for (int p = panels_of(pool.exact_below());
         p < static_cast<int>(exact_.size()) && (p + 1) * kv_panel <= from; ++p) {
      pages.exact.release(exact_[static_cast<std::size_t>(p)]);
    }
    for (int token = a.first; token < a.end; ++token) {
      if (token >= pool.exact_below() && (pool.window() == 0 || token < from)) continue;
      std::byte*& page = this->page(exact_, token / kv_panel);
      pages.exact.own(page);
      each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
        if (plane.panel.format.exact()) return;
        write_exact(side, plane.panel, pool.policy().exact_type,
                    a.row(side, head, plane.panel, token), token % kv_panel, page + plane.exact_at);
      });
    }
    exact_from_ = from;
  }
  // What is never rounded.
  void keep_floats(const Append& a, KvPool& pool) {
    KvLayerPages& pages = pool.layer(a.layer);
    for (int token = a.first; token < a.end; ++token) {
      std::byte*& page = this->page(stored_, token / kv_panel);
      pages.stored.own(page);
      each_plane(pages, [&](KvSide side, int head, const KvPlane& plane) {
        if (!plane.panel.format.exact()) return;
        write_exact(side, plane.panel, DType::f32, a.row(side, head, plane.panel, token),
                    token % kv_panel, page + plane.codes_at);
      });
    }
  }

  int size_ = 0, packed_end_ = 0, forgotten_ = 0, last_append_ = 0;
  int written_ = 0;     // tokens below have codes
  int exact_from_ = 0;  // the first token whose exact form is in the window's pages
  Pages exact_, stored_;
  AlignedBuffer<float> center_;  // [kv_heads, dim], once it is known
};

}  // namespace bisup
