// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How is a tile of 64 keys attended to? Up to six rows at a time: scores in registers, softmax in
// the first-level cache, weighted values in registers. The specification is
// kernel/scalar_attention.hpp. Included by each_target.hpp.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <bisup/kernel/even_tiles.hpp>
#include <bisup/kernel/scalar_attention.hpp>

namespace bisup::BISUP_LANES {

// Registers: 6 rows by 4 sums, 4 of keys or values and a broadcast, 29 of 32; by 2 sums 15 of 16.
inline constexpr int attention_rows = 6, attention_registers = register_count >= 32 ? 4 : 2;

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE Floats exp2(Floats x) noexcept {
  x = larger(x, splat(smallest_exponent));
  const Floats whole = rounded(x), part = subtract(x, whole);
  Floats power = splat(exp2_terms[0]);
#pragma GCC unroll 6
  for (int i = 1; i < 7; ++i) power = multiply_add(power, part, splat(exp2_terms[i]));
  return times_normal_two_to(power, whole);
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE float exp2(float x) noexcept {
  return first_lane(exp2(splat(x)));
}

// Scores of Rows queries with the keys of the first Panels panels.
template <int Rows, int Panels>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void score(const float* queries, int dim, const float* const* keys, float* scores) noexcept {
  constexpr int registers = Panels * panel_parts;
  Floats sum[Rows][registers];
  const float* part[registers];
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) {
    part[i] = keys[i / panel_parts] + i % panel_parts * lane_count;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) sum[r][i] = splat(0.0f);
  }
#pragma GCC unroll 2
  for (int d = 0; d < dim; ++d) {
    Floats key[registers];
#pragma GCC unroll 4
    for (int i = 0; i < registers; ++i) key[i] = load(part[i] + d * kv_panel);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Floats query = splat(queries[static_cast<std::ptrdiff_t>(r) * dim + d]);
#pragma GCC unroll 4
      for (int i = 0; i < registers; ++i) sum[r][i] = multiply_add(query, key[i], sum[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < registers; ++i) store(scores + r * kv_tile + i * lane_count, sum[r][i]);
  }
}

// The same for the panels that hold `range`.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void score(const float* queries, int dim, const float* const* keys,
                               KeyRange range, float* scores) noexcept {
  constexpr int most = attention_registers / panel_parts;
  int p = range.first / kv_panel;
  const int last = (range.last + kv_panel - 1) / kv_panel;
  for (; p + most <= last; p += most)
    score<Rows, most>(queries, dim, keys + p, scores + p * kv_panel);
  if constexpr (most > 1) {
    switch (last - p) {
      case 3: return score<Rows, 3>(queries, dim, keys + p, scores + p * kv_panel);
      case 2: return score<Rows, 2>(queries, dim, keys + p, scores + p * kv_panel);
      case 1: return score<Rows, 1>(queries, dim, keys + p, scores + p * kv_panel);
      default: return;
    }
  }
}

// The sums of a row move on: weights of a new maximum, `added` for each lane of them.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE float move_on(float now, Floats added, float& maximum, float& sum) noexcept {
  const float correction = now != maximum ? exp2(maximum - now) : 1.0f;
  maximum = now;
  sum = sum * correction + sum_lanes(added);
  return correction;
}

// Scores become weights, exact and packed apart (either may be null if the row sees none); maximum
// and sum move on. Returns the correction of what was summed before.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE float soften(const RowSpan& span, float* exact, float* packed, float& maximum,
                                 float& sum) noexcept {
  static_assert(kv_tile == 64, "the keys that a row sees are one 64-bit mask");
  constexpr int registers = kv_tile / lane_count;
  const std::uint64_t seen = keys_below(span.last) & ~keys_below(span.first);
  const std::uint64_t as_exact =
      seen & (keys_below(span.exact_below) | ~keys_below(span.exact_from));
  const Floats nothing = splat(-std::numeric_limits<float>::infinity());
  Floats weight[registers], highest = nothing;
#pragma GCC unroll 8
  for (int i = 0; i < registers; ++i) {
    const int at = i * lane_count;
    weight[i] = nothing;
    if (exact) weight[i] = select(lanes_of(as_exact >> at), load(exact + at), weight[i]);
    if (packed)
      weight[i] = select(lanes_of((seen & ~as_exact) >> at), load(packed + at), weight[i]);
    highest = larger(highest, weight[i]);
  }
  const float now = std::max(maximum, largest_lane(highest));
  Floats added = splat(0.0f);
#pragma GCC unroll 8
  for (int i = 0; i < registers; ++i) {
    const int at = i * lane_count;
    weight[i] = keep(lanes_of(seen >> at), exp2(subtract(weight[i], splat(now))));
    added = add(added, weight[i]);
    if (exact) store(exact + at, keep(lanes_of(as_exact >> at), weight[i]));
    if (packed) store(packed + at, keep(lanes_of(~as_exact >> at), weight[i]));
  }
  return move_on(now, added, maximum, sum);
}

// The same, bit for bit, for a row that sees all keys of a tile, which are of one kind.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE float soften_whole(float* scores, float& maximum, float& sum) noexcept {
  constexpr int registers = kv_tile / lane_count;
  Floats weight[registers], highest = load(scores);
#pragma GCC unroll 8
  for (int i = 0; i < registers; ++i) {
    weight[i] = load(scores + i * lane_count);
    highest = larger(highest, weight[i]);
  }
  const float now = std::max(maximum, largest_lane(highest));
  Floats added = splat(0.0f);
#pragma GCC unroll 8
  for (int i = 0; i < registers; ++i) {
    const Floats power = exp2(subtract(weight[i], splat(now)));
    added = add(added, power);
    store(scores + i * lane_count, power);
  }
  return move_on(now, added, maximum, sum);
}

struct RowWeights {
  float exact[attention_rows * kv_tile], packed[attention_rows * kv_tile];
  float correction[attention_rows];
  KeyRange exact_keys{}, packed_keys{};  // that any of the rows sees
};

// Which keys Rows rows see, each and together; false if none.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE bool find_keys(const AttentionTile& tile, int row, RowSpan (&span)[Rows],
                                   RowWeights& w) noexcept {
  for (int r = 0; r < Rows; ++r) {
    span[r] = row_span(tile, row + r);
    w.exact_keys.include(span[r].exact_keys()), w.packed_keys.include(span[r].packed_keys());
  }
  return !w.exact_keys.empty() || !w.packed_keys.empty();
}

// Scores of row r of the tile, the `at`th of w, become its weights.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void soften_row(const AttentionTile& tile, const RowSpan& span, int r, int at,
                                    RowWeights& w) noexcept {
  float* exact = !w.exact_keys.empty() ? w.exact + at * kv_tile : nullptr;
  float* packed = !w.packed_keys.empty() ? w.packed + at * kv_tile : nullptr;
  const bool whole = span.first == 0 && span.last == kv_tile && !(exact && packed);
  w.correction[at] = whole ? soften_whole(exact ? exact : packed, tile.maximum[r], tile.sum[r])
                           : soften(span, exact, packed, tile.maximum[r], tile.sum[r]);
}

// sum += weights times values, keys first ... last - 1, so many registers of columns.
template <int Rows, int Registers>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void weigh(const float* weights, const float* const* values, int dim, int col,
                               KeyRange range, Floats (&sum)[Rows][Registers]) noexcept {
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    const int begin = std::max(range.first, p * kv_panel);
    const int end = std::min(range.last, (p + 1) * kv_panel);
    const float* row = values[p] + static_cast<std::ptrdiff_t>(begin - p * kv_panel) * dim + col;
#pragma GCC unroll 2
    for (int j = begin; j < end; ++j, row += dim) {
      Floats value[Registers];
#pragma GCC unroll 4
      for (int v = 0; v < Registers; ++v) value[v] = load(row + v * lane_count);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const Floats weight = splat(weights[r * kv_tile + j]);
#pragma GCC unroll 4
        for (int v = 0; v < Registers; ++v) sum[r][v] = multiply_add(weight, value[v], sum[r][v]);
      }
    }
  }
}

// out = correction out + weights times values, so many registers of columns.
template <int Rows, int Registers>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void accumulate(const AttentionTile& tile, const RowWeights& w, int row, int col) noexcept {
  float* out = tile.out + static_cast<std::ptrdiff_t>(row) * tile.dim + col;
  Floats sum[Rows][Registers];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const Floats correction = splat(w.correction[r]);
    const float* at = out + static_cast<std::ptrdiff_t>(r) * tile.dim;
#pragma GCC unroll 4
    for (int v = 0; v < Registers; ++v) sum[r][v] = multiply(correction, load(at + v * lane_count));
  }
  weigh(w.exact, tile.exact_values, tile.dim, col, w.exact_keys, sum);
  weigh(w.packed, tile.packed_values, tile.dim, col, w.packed_keys, sum);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    float* at = out + static_cast<std::ptrdiff_t>(r) * tile.dim;
#pragma GCC unroll 4
    for (int v = 0; v < Registers; ++v) store(at + v * lane_count, sum[r][v]);
  }
}
template <int Rows>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void accumulate(const AttentionTile& tile, const RowWeights& w, int row) noexcept {
  constexpr int most = attention_registers * lane_count, least = 2 * lane_count;
  int col = 0;
  for (; col + most <= tile.dim; col += most)
    accumulate<Rows, attention_registers>(tile, w, row, col);
  for (; most > least && col < tile.dim; col += least) accumulate<Rows, 2>(tile, w, row, col);
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED void attend_rows(const AttentionTile& tile, int row) noexcept {
  RowWeights w;
  RowSpan span[Rows];
  if (!find_keys(tile, row, span, w)) return;
  const float* queries = tile.queries + static_cast<std::ptrdiff_t>(row) * tile.dim;
  score<Rows>(queries, tile.dim, tile.exact_keys, w.exact_keys, w.exact);
  score<Rows>(queries, tile.dim, tile.packed_keys, w.packed_keys, w.packed);
  for (int r = 0; r < Rows; ++r) soften_row(tile, span[r], row + r, r, w);
  accumulate<Rows>(tile, w, row);
}

// Limited by: the two ports that multiply and add: 128 dim products a row against some 60 (16
// lanes) to 150 (8) other instructions. Tried and lost: a pass over all rows for each stage (the
// scores leave the first-level cache).
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void attend(const AttentionTile& tile) noexcept {
  each_tile(0, tile.rows, [&]<int Rows>(int row) { attend_rows<Rows>(tile, row); });
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void join(const float* out, const float* maximum, const float* sum, int rows,
                                 int dim, float* total, float* total_maximum,
                                 float* total_sum) noexcept {
  for (int r = 0; r < rows; ++r, out += dim, total += dim) {
    if (maximum[r] == -std::numeric_limits<float>::infinity()) continue;
    const float joint = std::max(total_maximum[r], maximum[r]);
    const float before = exp2(total_maximum[r] - joint), after = exp2(maximum[r] - joint);
    const Floats b = splat(before), a = splat(after);
    for (int d = 0; d < dim; d += lane_count) {
      store(total + d, multiply_add(load(out + d), a, multiply(load(total + d), b)));
    }
    total_sum[r] = total_sum[r] * before + sum[r] * after;
    total_maximum[r] = joint;
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void scale(const float* x, int count, float factor, float* y) noexcept {
  const Floats by = splat(factor);
  for (int i = 0; i < count; i += lane_count)
    store_first(y + i, multiply(by, load_row(x, i, count)), count - i);
}

}  // namespace bisup::BISUP_LANES
