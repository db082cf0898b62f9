// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON attend to a tile of 64 keys? As AVX2 does, a panel of 16 keys or 16 columns at a
// time. The specification is kernel/scalar_attention.hpp.

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/scalar_attention.hpp>

namespace bisup::neon {

inline constexpr int attention_rows =
    6;  // 6 x 4 sums, a panel in 4 and a broadcast: 29 of 32 registers

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats exp2(Floats x) noexcept {
  x = larger(x, splat(smallest_exponent));
  const Floats whole = rounded(x);
  const Floats part = subtract(x, whole);
  Floats power = splat(exp2_terms[0]);
#pragma GCC unroll 6
  for (int i = 1; i < 7; ++i) power = multiply_add(power, part, splat(exp2_terms[i]));
  const Ints exponent = add(to_ints(whole), splat(127));
  return multiply(power,
                  bits_as_floats({vshlq_n_s32(exponent.low, 23), vshlq_n_s32(exponent.high, 23)}));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float exp2(float x) noexcept {
  return vgetq_lane_f32(exp2(splat(x)).low, 0);
}

// Scores of Rows queries with the keys of one panel.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE
    void score(const float* queries, int dim, const float* keys, float* scores) noexcept {
  Floats sum[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) sum[r][0] = sum[r][1] = splat(0.0f);
#pragma GCC unroll 4
  for (int d = 0; d < dim; ++d, keys += kv_panel) {
    const Floats low = load(keys), high = load(keys + 8);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Floats query = splat(queries[static_cast<std::ptrdiff_t>(r) * dim + d]);
      sum[r][0] = multiply_add(query, low, sum[r][0]);
      sum[r][1] = multiply_add(query, high, sum[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    store(scores + r * kv_tile, sum[r][0]);
    store(scores + r * kv_tile + 8, sum[r][1]);
  }
}

// The same for the panels that hold `range`.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void score(const float* queries, int dim, const float* const* keys,
                               KeyRange range, float* scores) noexcept {
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    score<Rows>(queries, dim, keys[p], scores + p * kv_panel);
  }
}

// All ones where first <= index < last.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask between(Ints index, int first, int last) noexcept {
  return both(less(splat(first - 1), index), less(index, splat(last)));
}

// Scores become weights, exact and packed apart (either may be null if the row sees none); maximum
// and sum move on. Returns the correction of what was summed before.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float soften(const RowSpan& span, float* exact, float* packed, float& maximum,
                                 float& sum) noexcept {
  const Floats nothing = splat(-std::numeric_limits<float>::infinity());
  const Ints eight = splat(8);
  Floats weight[kv_tile / 8], highest = nothing;
  Ints index = lane_numbers();
  for (int i = 0; i < kv_tile / 8; ++i, index = add(index, eight)) {
    const Mask as_packed = between(index, span.exact_below, span.exact_from);
    Floats scores = exact ? load(exact + i * 8) : nothing;
    if (packed) scores = select(as_packed, load(packed + i * 8), scores);
    weight[i] = select(between(index, span.first, span.last), scores, nothing);
    highest = larger(highest, weight[i]);
  }
  const float before = maximum, now = std::max(before, largest_lane(highest));
  Floats added = splat(0.0f);
  index = lane_numbers();
  for (int i = 0; i < kv_tile / 8; ++i, index = add(index, eight)) {
    const Mask as_packed = between(index, span.exact_below, span.exact_from);
    const Floats power = exp2(subtract(weight[i], splat(now)));
    const Floats seen = keep(between(index, span.first, span.last), power);
    added = add(added, seen);
    if (exact) store(exact + i * 8, select(as_packed, splat(0.0f), seen));
    if (packed) store(packed + i * 8, keep(as_packed, seen));
  }
  const float correction = now != before ? exp2(before - now) : 1.0f;
  maximum = now;
  sum = sum * correction + sum_lanes(added);
  return correction;
}

// The same, bit for bit, for a row that sees all keys of a tile, which are of one kind.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float soften_whole(float* scores, float& maximum, float& sum) noexcept {
  Floats weight[kv_tile / 8], highest = load(scores);
  weight[0] = highest;
#pragma GCC unroll 8
  for (int i = 1; i < kv_tile / 8; ++i) {
    weight[i] = load(scores + i * 8);
    highest = larger(highest, weight[i]);
  }
  const float before = maximum, now = std::max(before, largest_lane(highest));
  Floats added = splat(0.0f);
#pragma GCC unroll 8
  for (int i = 0; i < kv_tile / 8; ++i) {
    const Floats power = exp2(subtract(weight[i], splat(now)));
    added = add(added, power);
    store(scores + i * 8, power);
  }
  const float correction = now != before ? exp2(before - now) : 1.0f;
  maximum = now;
  sum = sum * correction + sum_lanes(added);
  return correction;
}

struct RowWeights {
  float exact[attention_rows * kv_tile], packed[attention_rows * kv_tile];
  float correction[attention_rows];
  KeyRange exact_keys{}, packed_keys{};  // that any of the rows sees
};

// sum += weights times values, keys first ... last - 1, 16 columns.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void weigh(const float* weights, const float* const* values, int dim, int col,
                               KeyRange range, Floats (&sum)[Rows][2]) noexcept {
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    const int begin = std::max(range.first, p * kv_panel);
    const int end = std::min(range.last, (p + 1) * kv_panel);
    const float* row = values[p] + static_cast<std::ptrdiff_t>(begin - p * kv_panel) * dim + col;
#pragma GCC unroll 4
    for (int j = begin; j < end; ++j, row += dim) {
      const Floats low = load(row), high = load(row + 8);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const Floats weight = splat(weights[r * kv_tile + j]);
        sum[r][0] = multiply_add(weight, low, sum[r][0]);
        sum[r][1] = multiply_add(weight, high, sum[r][1]);
      }
    }
  }
}

// out = correction out + weights times values, 16 columns.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE
    void accumulate(const AttentionTile& tile, const RowWeights& w, int row, int col) noexcept {
  float* out = tile.out + static_cast<std::ptrdiff_t>(row) * tile.dim + col;
  Floats sum[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const Floats correction = splat(w.correction[r]);
    const float* at = out + static_cast<std::ptrdiff_t>(r) * tile.dim;
    sum[r][0] = multiply(correction, load(at));
    sum[r][1] = multiply(correction, load(at + 8));
  }
  weigh(w.exact, tile.exact_values, tile.dim, col, w.exact_keys, sum);
  weigh(w.packed, tile.packed_values, tile.dim, col, w.packed_keys, sum);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    float* at = out + static_cast<std::ptrdiff_t>(r) * tile.dim;
    store(at, sum[r][0]), store(at + 8, sum[r][1]);
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED void attend_rows(const AttentionTile& tile, int row) noexcept {
  RowWeights w;
  RowSpan span[Rows];
  for (int r = 0; r < Rows; ++r) {
    span[r] = row_span(tile, row + r);
    w.exact_keys.include(span[r].exact_keys()), w.packed_keys.include(span[r].packed_keys());
  }
  if (w.exact_keys.empty() && w.packed_keys.empty()) return;
  const float* queries = tile.queries + static_cast<std::ptrdiff_t>(row) * tile.dim;
  score<Rows>(queries, tile.dim, tile.exact_keys, w.exact_keys, w.exact);
  score<Rows>(queries, tile.dim, tile.packed_keys, w.packed_keys, w.packed);
  for (int r = 0; r < Rows; ++r) {
    float* exact = !w.exact_keys.empty() ? w.exact + r * kv_tile : nullptr;
    float* packed = !w.packed_keys.empty() ? w.packed + r * kv_tile : nullptr;
    float &maximum = tile.maximum[row + r], &sum = tile.sum[row + r];
    const bool whole = span[r].first == 0 && span[r].last == kv_tile && !(exact && packed);
    w.correction[r] = whole ? soften_whole(exact ? exact : packed, maximum, sum)
                            : soften(span[r], exact, packed, maximum, sum);
  }
  for (int col = 0; col < tile.dim; col += kv_panel) accumulate<Rows>(tile, w, row, col);
}

// Limited by: the multiply-add ports; 128 dim products a row against some 300 other instructions.
// Registers: see attention_rows.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void attend(const AttentionTile& tile) noexcept {
  int row = 0;
  for (; row + attention_rows <= tile.rows; row += attention_rows)
    attend_rows<attention_rows>(tile, row);
  switch (tile.rows - row) {
    case 5: return attend_rows<5>(tile, row);
    case 4: return attend_rows<4>(tile, row);
    case 3: return attend_rows<3>(tile, row);
    case 2: return attend_rows<2>(tile, row);
    case 1: return attend_rows<1>(tile, row);
    default: return;
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void join(const float* out, const float* maximum, const float* sum, int rows,
                                 int dim, float* total, float* total_maximum,
                                 float* total_sum) noexcept {
  for (int r = 0; r < rows; ++r, out += dim, total += dim) {
    if (maximum[r] == -std::numeric_limits<float>::infinity()) continue;
    const float joint = std::max(total_maximum[r], maximum[r]);
    const float before = exp2(total_maximum[r] - joint), after = exp2(maximum[r] - joint);
    const Floats b = splat(before), a = splat(after);
    for (int d = 0; d < dim; d += 8) {
      const Floats earlier = multiply(load(total + d), b);
      store(total + d, multiply_add(load(out + d), a, earlier));
    }
    total_sum[r] = total_sum[r] * before + sum[r] * after;
    total_maximum[r] = joint;
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void scale(const float* x, int count, float factor, float* y) noexcept {
  const Floats by = splat(factor);
  for (int i = 0; i < count; i += 8) {
    store_first(y + i, multiply(by, load_floats<DType::f32>(x, i, count - i)), count - i);
  }
}

}  // namespace bisup::neon
#endif
