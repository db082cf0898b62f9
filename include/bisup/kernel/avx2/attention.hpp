// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 attend to a tile of 64 keys? As AVX-512 does, a panel of 16 keys or 16 columns at a
// time. The specification is kernel/scalar_attention.hpp.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/scalar_attention.hpp>

namespace bisup::avx2 {

inline constexpr int attention_rows =
    6;  // 6 x 2 sums, a panel in 2 and a broadcast: 15 of 16 registers

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 exp2(__m256 x) noexcept {
  x = _mm256_max_ps(x, _mm256_set1_ps(smallest_exponent));
  const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 part = _mm256_sub_ps(x, whole);
  __m256 power = _mm256_set1_ps(exp2_terms[0]);
#pragma GCC unroll 6
  for (int i = 1; i < 7; ++i) power = _mm256_fmadd_ps(power, part, _mm256_set1_ps(exp2_terms[i]));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float exp2(float x) noexcept {
  return _mm256_cvtss_f32(exp2(_mm256_set1_ps(x)));
}

// Scores of Rows queries with the keys of one panel.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void score(const float* queries, int dim, const float* keys, float* scores) noexcept {
  __m256 sum[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
#pragma GCC unroll 4
  for (int d = 0; d < dim; ++d, keys += kv_panel) {
    const __m256 low = _mm256_loadu_ps(keys), high = _mm256_loadu_ps(keys + 8);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m256 query = _mm256_broadcast_ss(queries + static_cast<std::ptrdiff_t>(r) * dim + d);
      sum[r][0] = _mm256_fmadd_ps(query, low, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(query, high, sum[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    _mm256_storeu_ps(scores + r * kv_tile, sum[r][0]);
    _mm256_storeu_ps(scores + r * kv_tile + 8, sum[r][1]);
  }
}

// The same for the panels that hold `range`.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void score(const float* queries, int dim, const float* const* keys,
                               KeyRange range, float* scores) noexcept {
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    score<Rows>(queries, dim, keys[p], scores + p * kv_panel);
  }
}

// All ones where first <= index < last.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 between(__m256i index, int first, int last) noexcept {
  const __m256i from = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(first - 1));
  return _mm256_castsi256_ps(
      _mm256_and_si256(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(last), index)));
}

// Scores become weights, exact and packed apart (either may be null if the row sees none); maximum
// and sum move on. Returns the correction of what was summed before.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float soften(const RowSpan& span, float* exact, float* packed, float& maximum,
                                 float& sum) noexcept {
  const __m256 nothing = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
  const __m256i eight = _mm256_set1_epi32(8);
  __m256 weight[kv_tile / 8], highest = nothing;
  __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int i = 0; i < kv_tile / 8; ++i, index = _mm256_add_epi32(index, eight)) {
    const __m256 as_packed = between(index, span.exact_below, span.exact_from);
    __m256 scores = exact ? _mm256_loadu_ps(exact + i * 8) : nothing;
    if (packed) scores = _mm256_blendv_ps(scores, _mm256_loadu_ps(packed + i * 8), as_packed);
    weight[i] = _mm256_blendv_ps(nothing, scores, between(index, span.first, span.last));
    highest = _mm256_max_ps(highest, weight[i]);
  }
  const float before = maximum, now = std::max(before, largest_lane(highest));
  __m256 added = _mm256_setzero_ps();
  index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int i = 0; i < kv_tile / 8; ++i, index = _mm256_add_epi32(index, eight)) {
    const __m256 as_packed = between(index, span.exact_below, span.exact_from);
    const __m256 power = exp2(_mm256_sub_ps(weight[i], _mm256_set1_ps(now)));
    const __m256 seen = _mm256_and_ps(power, between(index, span.first, span.last));
    added = _mm256_add_ps(added, seen);
    if (exact) _mm256_storeu_ps(exact + i * 8, _mm256_andnot_ps(as_packed, seen));
    if (packed) _mm256_storeu_ps(packed + i * 8, _mm256_and_ps(as_packed, seen));
  }
  const float correction = now != before ? exp2(before - now) : 1.0f;
  maximum = now;
  sum = sum * correction + sum_lanes(added);
  return correction;
}

// The same, bit for bit, for a row that sees all keys of a tile, which are of one kind.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float soften_whole(float* scores, float& maximum, float& sum) noexcept {
  __m256 weight[kv_tile / 8], highest = _mm256_loadu_ps(scores);
  weight[0] = highest;
#pragma GCC unroll 8
  for (int i = 1; i < kv_tile / 8; ++i) {
    weight[i] = _mm256_loadu_ps(scores + i * 8);
    highest = _mm256_max_ps(highest, weight[i]);
  }
  const float before = maximum, now = std::max(before, largest_lane(highest));
  __m256 added = _mm256_setzero_ps();
#pragma GCC unroll 8
  for (int i = 0; i < kv_tile / 8; ++i) {
    const __m256 power = exp2(_mm256_sub_ps(weight[i], _mm256_set1_ps(now)));
    added = _mm256_add_ps(added, power);
    _mm256_storeu_ps(scores + i * 8, power);
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
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void weigh(const float* weights, const float* const* values, int dim, int col,
                               KeyRange range, __m256 (&sum)[Rows][2]) noexcept {
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    const int begin = std::max(range.first, p * kv_panel);
    const int end = std::min(range.last, (p + 1) * kv_panel);
    const float* row = values[p] + static_cast<std::ptrdiff_t>(begin - p * kv_panel) * dim + col;
#pragma GCC unroll 4
    for (int j = begin; j < end; ++j, row += dim) {
      const __m256 low = _mm256_loadu_ps(row), high = _mm256_loadu_ps(row + 8);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m256 weight = _mm256_broadcast_ss(weights + r * kv_tile + j);
        sum[r][0] = _mm256_fmadd_ps(weight, low, sum[r][0]);
        sum[r][1] = _mm256_fmadd_ps(weight, high, sum[r][1]);
      }
    }
  }
}

// out = correction out + weights times values, 16 columns.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void accumulate(const AttentionTile& tile, const RowWeights& w, int row, int col) noexcept {
  float* out = tile.out + static_cast<std::ptrdiff_t>(row) * tile.dim + col;
  __m256 sum[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const __m256 correction = _mm256_set1_ps(w.correction[r]);
    const float* at = out + static_cast<std::ptrdiff_t>(r) * tile.dim;
    sum[r][0] = _mm256_mul_ps(correction, _mm256_loadu_ps(at));
    sum[r][1] = _mm256_mul_ps(correction, _mm256_loadu_ps(at + 8));
  }
  weigh(w.exact, tile.exact_values, tile.dim, col, w.exact_keys, sum);
  weigh(w.packed, tile.packed_values, tile.dim, col, w.packed_keys, sum);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    float* at = out + static_cast<std::ptrdiff_t>(r) * tile.dim;
    _mm256_storeu_ps(at, sum[r][0]), _mm256_storeu_ps(at + 8, sum[r][1]);
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
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

// Limited by: the two FMA ports; 128 dim products a row against some 150 other instructions.
// Registers: see attention_rows.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
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

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void join(const float* out, const float* maximum, const float* sum, int rows,
                                 int dim, float* total, float* total_maximum,
                                 float* total_sum) noexcept {
  for (int r = 0; r < rows; ++r, out += dim, total += dim) {
    if (maximum[r] == -std::numeric_limits<float>::infinity()) continue;
    const float joint = std::max(total_maximum[r], maximum[r]);
    const float before = exp2(total_maximum[r] - joint), after = exp2(maximum[r] - joint);
    const __m256 b = _mm256_set1_ps(before), a = _mm256_set1_ps(after);
    for (int d = 0; d < dim; d += 8) {
      const __m256 earlier = _mm256_mul_ps(_mm256_loadu_ps(total + d), b);
      _mm256_storeu_ps(total + d, _mm256_fmadd_ps(_mm256_loadu_ps(out + d), a, earlier));
    }
    total_sum[r] = total_sum[r] * before + sum[r] * after;
    total_maximum[r] = joint;
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void scale(const float* x, int count, float factor, float* y) noexcept {
  const __m256 by = _mm256_set1_ps(factor);
  for (int i = 0; i < count; i += 8) {
    store_first(y + i, _mm256_mul_ps(by, load_floats<DType::f32>(x, i, count - i)), count - i);
  }
}

}  // namespace bisup::avx2
#endif
