// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do queries attend to cached keys and values? Sequences, heads, tiles of queries and splits of
// keys become tasks; each follows a fixed order, so the result depends neither on the number of
// threads nor on which queries come together. One step is kernel/attention_tile.hpp.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/ahead.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/kernel/exponential_terms.hpp>
#include <bisup/ops/hadamard.hpp>
#include <bisup/pack/kv_view.hpp>

namespace bisup {

// Some consecutive queries of one sequence against its cache. Query head h reads KV head h div
// group.
struct AttendRequest {
  std::vector<KvHeadView> heads{};  // [kv_heads]
  int head_dim = 0;
  float scale = 1;             // of the scores
  bool rotate_keys = false;    // cached keys are rotated: so are the queries
  bool rotate_values = false;  // and so is, back, the result
  KvLaw law{};
  int first_query = 0;               // position of the first
  MatrixRef<const float> queries{};  // [tokens, heads * head_dim]
  MatrixRef<float> out{};            // the same shape
};

// Keys of one split are summed together and splits joined in order. Long sequences thus have tasks
// enough for every thread even when there is one query; where there are without, a task takes its
// splits one after another, with the same result.
inline constexpr int attend_split = 256;  // keys
inline constexpr int attend_rows = 192;   // of queries in a task

namespace detail {

// The state of the online softmax of some rows.
struct AttendState {
  float* out;      // [rows, dim]
  float* maximum;  // [rows]
  float* sum;      // [rows]

  // Rounded up, so that what follows starts at a cache line.
  static std::size_t floats(int rows, int dim) {
    return (static_cast<std::size_t>(rows) * (static_cast<std::size_t>(dim) + 2) + 15) / 16 * 16;
  }
  AttendState(float* at, int rows, int dim)
      : out(at),
        maximum(at + static_cast<std::size_t>(rows) * static_cast<std::size_t>(dim)),
        sum(maximum + rows) {}
  void clear(int rows, int dim) const {
    std::fill_n(out, static_cast<std::size_t>(rows) * static_cast<std::size_t>(dim), 0.0f);
    std::fill_n(maximum, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, rows, 0.0f);
  }
};

// Memory of one thread, kept from call to call.
inline float* attend_scratch(std::size_t floats) {
  static thread_local AlignedBuffer<float> buffer;
  if (buffer.size() < floats) buffer = AlignedBuffer<float>(floats);
  return buffer.data();
}

// One KV head and some consecutive queries of a request.
class AttendTask {
 public:
  AttendTask(const AttendRequest& request, int head, int first_token, int tokens)
      : request_(request),
        head_(head),
        first_token_(first_token),
        tokens_(tokens),
        group_(request.queries.cols() / request.head_dim / static_cast<int>(request.heads.size())),
        dim_(request.heads[0].keys.panel.dim()),
        codes_(as_codes(keys()) && as_codes(values())) {}

  [[nodiscard]] int rows() const { return tokens_ * group_; }
  [[nodiscard]] int dim() const { return dim_; }
  [[nodiscard]] int first_query() const { return request_.first_query + first_token_; }
  [[nodiscard]] int last_query() const { return first_query() + tokens_ - 1; }
  // Splits that any of the queries sees: first ... last.
  [[nodiscard]] int first_split() const {
    return request_.law.first_visible(first_query()) / attend_split;
  }
  [[nodiscard]] int last_split() const { return last_query() / attend_split; }
  [[nodiscard]] std::size_t scratch_floats() const {
    const auto panel = static_cast<std::size_t>(kv_panel * dim_);
    return AttendState::floats(rows(), dim_) * 4 + panel * (4 * kv_panels + 1);
  }

  // Everything: scratch holds scratch_floats().
  void run(float* scratch) const {
    const std::size_t size = AttendState::floats(rows(), dim_);
    const AttendState total(scratch, rows(), dim_), part(scratch + size, rows(), dim_);
    scratch += 2 * size;
    gather(scratch);
    total.clear(rows(), dim_);
    for (int split = first_split(); split <= last_split(); ++split) {
      // Joining the first part to nothing would change nothing.
      const AttendState& state = split == first_split() ? total : part;
      if (split != first_split()) part.clear(rows(), dim_);
      sum_split(split, scratch, state);
      if (split != first_split()) join(part, total);
    }
    finish(total);
  }
  // One split only; state is the caller's.
  void run_split(int split, float* scratch, const AttendState& state) const {
    gather(scratch);
    state.clear(rows(), dim_);
    sum_split(split, scratch, state);
  }
  void join(const AttendState& part, const AttendState& total) const {
    attention_kernels().join(part.out, part.maximum, part.sum, rows(), dim_, total.out,
                             total.maximum, total.sum);
  }
  void finish(const AttendState& total) const {
    for (int r = 0; r < rows(); ++r) {
      float* row = total.out + static_cast<std::ptrdiff_t>(r) * dim_;
      scale(row, 1.0f / total.sum[r], request_.rotate_values, place(request_.out, r));
    }
  }

 private:
  [[nodiscard]] const KvPlaneView& keys() const {
    return request_.heads[static_cast<std::size_t>(head_)].keys;
  }
  [[nodiscard]] const KvPlaneView& values() const {
    return request_.heads[static_cast<std::size_t>(head_)].values;
  }
  // Whether the kernel reads packed panels of this side as codes.
  [[nodiscard]] static bool as_codes(const KvPlaneView& plane) {
    const KvFormat& format = plane.panel.format;
    return attention_kernels().query_bytes != nullptr && !format.exact() && !format.channels &&
           std::min(plane.panel.group(), plane.panel.dim()) <= most_code_dims;
  }
  // Behind the float queries the same as integers: of all rows scales, products with the center,
  // sums and bytes. They take less than the floats: a sum has 32 dims at least.
  struct QueryRows {
    float *scales, *centers;
    std::int32_t* sums;
    std::int8_t* bytes;
    int groups, dim;

    [[nodiscard]] QueryRow row(int r) const {
      return {bytes + static_cast<std::ptrdiff_t>(r) * 2 * dim,
              sums + static_cast<std::ptrdiff_t>(r) * groups, scales + r, centers + r};
    }
  };
  [[nodiscard]] int key_group() const { return std::min(keys().panel.group(), dim_); }
  [[nodiscard]] QueryRows query_rows(float* queries) const {
    const int groups = keys().panel.groups();
    float* scales = queries + AttendState::floats(rows(), dim_);
    auto* const sums = reinterpret_cast<std::int32_t*>(scales + 2 * rows());
    auto* const bytes =
        reinterpret_cast<std::int8_t*>(sums + static_cast<std::ptrdiff_t>(rows()) * groups);
    return {scales, scales + rows(), sums, bytes, groups, dim_};
  }

  template <class T>
  [[nodiscard]] T* place(const MatrixRef<T>& matrix, int row) const {
    return matrix.row_data(first_token_ + row / group_) +
           (head_ * group_ + row % group_) * request_.head_dim;
  }

  // One head's row, times a factor and, if that is asked for, the normalised Hadamard matrix, which
  // is its own inverse.
  void scale(const float* row, float factor, bool rotate, float* into) const {
    attention_kernels().scale(row, request_.head_dim, factor, into);
    if (rotate) hadamard({into, static_cast<std::size_t>(request_.head_dim)});
  }

  // [rows, dim], times the scale and log2(e): the softmax works with powers of two. Behind them
  // integers, where the kernel reads those.
  void gather(float* queries) const {
    const QueryRows integers = query_rows(queries);
    for (int r = 0; r < rows(); ++r, queries += dim_) {
      scale(place(request_.queries, r), request_.scale * log2_e, request_.rotate_keys, queries);
      std::fill(queries + request_.head_dim, queries + dim_, 0.0f);
      if (codes_) {
        attention_kernels().query_bytes(queries, keys().center, dim_, key_group(), integers.row(r));
      }
    }
  }

  // gathered: what gather() wrote, and behind it room for panels.
  void sum_split(int split, float* gathered, const AttendState& state) const {
    const int begin = std::max(split * attend_split,
                               request_.law.first_visible(first_query()) / kv_tile * kv_tile);
    const int end = std::min((split + 1) * attend_split, last_query() + 1);
    float* const panels = gathered + 2 * AttendState::floats(rows(), dim_);
    std::fill_n(panels, kv_panel * dim_, 0.0f);
    for (int key = begin; key < end; key += kv_tile) {
      AttentionTile tile{.queries = gathered,
                         .out = state.out,
                         .maximum = state.maximum,
                         .sum = state.sum,
                         .rows = rows(),
                         .dim = dim_,
                         .heads = group_,
                         .first_query = first_query(),
                         .first_key = key,
                         .law = request_.law};
      // Queries before the tile's first key see nothing of it.
      const int skipped = std::max(key - first_query(), 0) * group_;
      const auto floats = static_cast<std::ptrdiff_t>(skipped) * dim_;
      tile.first_query += skipped / group_, tile.rows -= skipped;
      tile.queries += floats, tile.out += floats;
      tile.maximum += skipped, tile.sum += skipped;
      const QueryRow integers = query_rows(gathered).row(skipped);
      CodeTile codes{.queries = integers.bytes,
                     .query_sums = integers.sums,
                     .query_scales = integers.scale,
                     .query_centers = integers.center,
                     .key_group = key_group(),
                     .value_group = std::min(values().panel.group(), dim_)};
      if (codes_) tile.codes = &codes;
      const AttentionKernels& kernels = attention_kernels();
      const auto& read_keys = keys().panel.format.channels ? kernels.channel_keys : kernels.keys;
      const int step = kv_panel * dim_;
      load(keys(), tile, panels, panels + step, tile.exact_keys, tile.packed_keys, codes.keys,
           kernels.key_bytes, [&](int p, float* into) {
             read_keys[bits_of(keys())](keys().codes(p), keys().scales(p), keys().zeros(p),
                                        keys().center, keys().panel, into);
           });
      load(values(), tile, panels, panels + (1 + 2 * kv_panels) * step, tile.exact_values,
           tile.packed_values, codes.values, kernels.value_bytes, [&](int p, float* into) {
             kernels.values[bits_of(values())](values().codes(p), values().scales(p),
                                               values().zeros(p), values().panel, into);
           });
      kernels.attend(tile);
    }
  }

  static std::size_t bits_of(const KvPlaneView& plane) {
    return static_cast<std::size_t>(plane.panel.format.bits);
  }

  // Where the kernel finds the tile's panels: in the cache when they lie there as f32, else
  // unpacked into `room`, two panels a panel: packed ones to codes if the tile has such, else to
  // floats. What no query of the task sees is a panel of zeros.
  template <class Unpack>
  void load(const KvPlaneView& plane, const AttentionTile& tile, const float* zeros, float* room,
            const float** exact, const float** packed, CodePanel* codes,
            const std::array<AttentionKernels::ReadBytes, 9>& read_bytes, Unpack unpack) const {
    const KvLaw& law = request_.law;
    const int panel_floats = kv_panel * dim_;
    for (int i = 0; i < kv_panels; ++i, room += 2 * panel_floats) {
      exact[i] = packed[i] = zeros;
      const auto no_codes = reinterpret_cast<const std::uint8_t*>(zeros);
      codes[i] = {no_codes, no_codes, reinterpret_cast<const Half*>(zeros)};
      const int first = tile.first_key + i * kv_panel, p = first / kv_panel;
      if (first > last_query()) continue;
      ask_for_panel(plane, p + kv_panels);
      if (plane.panel.format.exact()) {
        exact[i] = packed[i] = static_cast<const float*>(plane.exact_panel(p));
        continue;
      }
      if (first < law.exact_below ||
          (law.recent > 0 && first + kv_panel > law.first_recent(tile.first_query))) {
        exact[i] = floats_of(plane, p, room + panel_floats);
      }
      if (packed_is_seen(plane, p)) {
        if (tile.codes == nullptr) {
          unpack(p, room);
          packed[i] = room;
        } else if (const auto read = read_bytes[bits_of(plane)]; read != nullptr) {
          const auto into = reinterpret_cast<std::uint8_t*>(room);
          read(plane.codes(p), plane.panel, into);
          codes[i] = {into, plane.zeros(p), plane.scales(p)};
        } else {
          codes[i] = {plane.codes(p), plane.zeros(p), plane.scales(p)};
        }
      }
    }
  }

  // Whether any query reads codes of panel p.
  [[nodiscard]] bool packed_is_seen(const KvPlaneView& plane, int p) const {
    const int first = p * kv_panel, last = request_.law.first_recent(last_query());
    return !plane.panel.format.exact() &&
           std::max(first, request_.law.exact_below) < std::min(first + kv_panel, last);
  }

  // A head's panels lie a page apart, where no processor expects the next: it is asked for, into
  // the second-level cache, while this tile is multiplied. One token of 32 heads behind 2048 others
  // takes .76 (8 bits) to .80 (2) of the time on Zen 4, .9 of it with floats; into the first level
  // .85 (2) to 1 (8), and 1.1.
  BISUP_ALWAYS_INLINE void ask_for_panel(const KvPlaneView& plane, int p) const {
    if (packed_is_seen(plane, p)) {
      ask_for(plane.codes(p), plane.panel.code_bytes());
      ask_for(plane.scales(p), 1), ask_for(plane.zeros(p), 1);
    } else if (plane.panel.format.exact() && p * kv_panel <= last_query()) {
      ask_for(plane.exact_panel(p), plane.panel.floats() * static_cast<int>(sizeof(float)));
    }
  }

  static const float* floats_of(const KvPlaneView& plane, int p, float* room) {
    const void* panel = plane.exact_panel(p);
    const DType type = plane.exact_panel_type(p);
    if (type == DType::f32) return static_cast<const float*>(panel);
    attention_kernels().widen[static_cast<std::size_t>(type)](panel, plane.panel.floats(), room);
    return room;
  }

  const AttendRequest& request_;
  int head_, first_token_, tokens_, group_, dim_;
  bool codes_;
};

}  // namespace detail

// Preconditions: every request has queries, and its cache holds them up to the last one.
inline void attend(std::span<const AttendRequest> requests, ThreadPool& pool) {
  struct Item {
    detail::AttendTask task;
    int split;          // -1: all of them
    bool first;         // of its task's splits
    std::size_t state;  // where a split's result lies
  };
  std::vector<Item> items;
  std::size_t states = 0, heads = 0;
  for (const AttendRequest& r : requests) heads += r.heads.size();
  const bool whole = pool.threads() == 1 || heads >= 4 * static_cast<std::size_t>(pool.threads());
  for (const AttendRequest& r : requests) {
    const int kv_heads = static_cast<int>(r.heads.size()), tokens = r.queries.rows();
    BISUP_EXPECTS(kv_heads > 0 && r.head_dim > 0 &&
                  r.queries.cols() % (kv_heads * r.head_dim) == 0);
    BISUP_EXPECTS(r.out.rows() == tokens && r.out.cols() == r.queries.cols());
    BISUP_EXPECTS(r.law.window > 0 &&
                  (!(r.rotate_keys || r.rotate_values) || (r.head_dim & (r.head_dim - 1)) == 0));
    const int group = r.queries.cols() / r.head_dim / kv_heads;
    const int step = std::max(attend_rows / group, 1);
    for (int token = 0; token < tokens; token += step) {
      for (int head = 0; head < kv_heads; ++head) {
        const detail::AttendTask task(r, head, token, std::min(step, tokens - token));
        if (whole || tokens > step || task.first_split() == task.last_split()) {
          items.push_back({task, -1, true, 0});
          continue;
        }
        for (int split = task.first_split(); split <= task.last_split(); ++split) {
          items.push_back({task, split, split == task.first_split(), states});
          states += detail::AttendState::floats(task.rows(), task.dim());
        }
      }
    }
  }
  // Late queries see more keys: starting with them leaves the short tasks for the end.
  static thread_local AlignedBuffer<float> parts;
  if (parts.size() < states) parts = AlignedBuffer<float>(states);
  float* const base = parts.data();
  const int count = static_cast<int>(items.size());
  pool.parallel_for(count, [&](int index, int) {
    const Item& item = items[static_cast<std::size_t>(count - 1 - index)];
    float* scratch = detail::attend_scratch(item.task.scratch_floats());
    if (item.split < 0) return item.task.run(scratch);
    item.task.run_split(item.split, scratch,
                        {base + item.state, item.task.rows(), item.task.dim()});
  });
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].split < 0) continue;
    const auto state = [&](const Item& item) {
      return detail::AttendState(base + item.state, item.task.rows(), item.task.dim());
    };
    const detail::AttendState total = state(items[i]);
    const std::size_t first = i;
    while (i + 1 < items.size() && !items[i + 1].first) {
      ++i;
      items[first].task.join(state(items[i]), total);
    }
    items[first].task.finish(total);
  }
}

}  // namespace bisup
