// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 attend to a tile of 64 keys? Six rows at a time: scores in registers, softmax in
// the first-level cache, weighted values in registers. The specification is
// kernel/scalar_attention.hpp.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <limits>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/even_tiles.hpp>
#include <bisup/kernel/scalar_attention.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

inline constexpr int attention_rows =
    6;  // 6 x 4 sums, 4 panels and a broadcast: 29 of 32 registers

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 exp2(__m512 x) noexcept {
  x = _mm512_max_ps(x, _mm512_set1_ps(smallest_exponent));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_set1_ps(exp2_terms[0]);
#pragma GCC unroll 6
  for (int i = 1; i < 7; ++i) power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(exp2_terms[i]));
  return _mm512_scalef_ps(power, whole);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float exp2(float x) noexcept {
  return _mm512_cvtss_f32(exp2(_mm512_set1_ps(x)));
}

// Scores of Rows queries with the keys of the first Panels panels.
template <int Rows, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void score(const float* queries, int dim, const float* const* keys, float* scores) noexcept {
  __m512 sum[Rows][Panels];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) sum[r][p] = _mm512_setzero_ps();
  }
  const float* panel[Panels];
#pragma GCC unroll 4
  for (int p = 0; p < Panels; ++p) panel[p] = keys[p];
  for (int d = 0; d < dim; ++d) {
    __m512 key[Panels];
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) key[p] = _mm512_loadu_ps(panel[p] + d * kv_panel);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512 query = _mm512_set1_ps(queries[static_cast<std::ptrdiff_t>(r) * dim + d]);
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) sum[r][p] = _mm512_fmadd_ps(query, key[p], sum[r][p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p)
      _mm512_storeu_ps(scores + r * kv_tile + p * kv_panel, sum[r][p]);
  }
}

// The same for the panels that hold `range`.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void score(const float* queries, int dim, const float* const* keys,
                               KeyRange range, float* scores) noexcept {
  if (range.empty()) return;
  const int first = range.first / kv_panel, panels = (range.last + kv_panel - 1) / kv_panel - first;
  keys += first, scores += first * kv_panel;
  switch (panels) {
    case 1: return score<Rows, 1>(queries, dim, keys, scores);
    case 2: return score<Rows, 2>(queries, dim, keys, scores);
    case 3: return score<Rows, 3>(queries, dim, keys, scores);
    default: return score<Rows, 4>(queries, dim, keys, scores);
  }
}

// The lowest `n` of 64 keys.
[[nodiscard]] constexpr std::uint64_t keys_below(int n) {
  return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
}

// Scores become weights, exact and packed apart (either may be null if the row sees none); maximum
// and sum move on. Returns the correction of what was summed before.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float soften(const RowSpan& span, float* exact, float* packed, float& maximum,
                                 float& sum) noexcept {
  const std::uint64_t seen = keys_below(span.last) & ~keys_below(span.first);
  const std::uint64_t as_exact =
      seen & (keys_below(span.exact_below) | ~keys_below(span.exact_from));
  const __m512 nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 weight[kv_panels], highest = nothing;
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    weight[p] = nothing;
    const auto from_exact = static_cast<__mmask16>(as_exact >> (p * kv_panel));
    const auto from_packed = static_cast<__mmask16>((seen & ~as_exact) >> (p * kv_panel));
    if (exact) weight[p] = _mm512_mask_loadu_ps(weight[p], from_exact, exact + p * kv_panel);
    if (packed) weight[p] = _mm512_mask_loadu_ps(weight[p], from_packed, packed + p * kv_panel);
    highest = _mm512_max_ps(highest, weight[p]);
  }
  const float before = maximum, now = std::max(before, largest_lane(highest));
  float correction = 1;
  __m512 added = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    const auto from_seen = static_cast<__mmask16>(seen >> (p * kv_panel));
    const auto from_exact = static_cast<__mmask16>(as_exact >> (p * kv_panel));
    weight[p] = _mm512_maskz_mov_ps(from_seen, exp2(_mm512_sub_ps(weight[p], _mm512_set1_ps(now))));
    added = _mm512_add_ps(added, weight[p]);
    if (exact) _mm512_storeu_ps(exact + p * kv_panel, _mm512_maskz_mov_ps(from_exact, weight[p]));
    if (packed) {
      _mm512_storeu_ps(packed + p * kv_panel,
                       _mm512_maskz_mov_ps(static_cast<__mmask16>(~from_exact), weight[p]));
    }
  }
  if (now != before) correction = exp2(before - now);
  maximum = now;
  sum = sum * correction + sum_lanes(added);
  return correction;
}

// sum += weights times values, keys first ... last - 1, 16 Vectors columns.
template <int Rows, int Vectors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void weigh(const float* weights, const float* const* values, int dim, int col,
                               KeyRange range, __m512 (&sum)[Rows][Vectors]) noexcept {
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    const int begin = std::max(range.first, p * kv_panel);
    const int end = std::min(range.last, (p + 1) * kv_panel);
    const float* row = values[p] + static_cast<std::ptrdiff_t>(begin - p * kv_panel) * dim + col;
    for (int j = begin; j < end; ++j, row += dim) {
      __m512 value[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) value[v] = _mm512_loadu_ps(row + v * 16);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m512 weight = _mm512_set1_ps(weights[r * kv_tile + j]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[r][v] = _mm512_fmadd_ps(weight, value[v], sum[r][v]);
      }
    }
  }
}

struct RowWeights {
  float exact[attention_rows * kv_tile], packed[attention_rows * kv_tile];
  float correction[attention_rows];
  KeyRange exact_keys{}, packed_keys{};  // that any of the rows sees
};

// out = correction out + weights times values, 16 Vectors columns.
template <int Rows, int Vectors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void accumulate(const AttentionTile& tile, const RowWeights& w, int row, int col) noexcept {
  float* out = tile.out + static_cast<std::ptrdiff_t>(row) * tile.dim + col;
  __m512 sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const __m512 correction = _mm512_set1_ps(w.correction[r]);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sum[r][v] = _mm512_mul_ps(
          correction, _mm512_loadu_ps(out + static_cast<std::ptrdiff_t>(r) * tile.dim + v * 16));
    }
  }
  weigh(w.exact, tile.exact_values, tile.dim, col, w.exact_keys, sum);
  weigh(w.packed, tile.packed_values, tile.dim, col, w.packed_keys, sum);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      _mm512_storeu_ps(out + static_cast<std::ptrdiff_t>(r) * tile.dim + v * 16, sum[r][v]);
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
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
    w.correction[r] = soften(span[r], !w.exact_keys.empty() ? w.exact + r * kv_tile : nullptr,
                             !w.packed_keys.empty() ? w.packed + r * kv_tile : nullptr,
                             tile.maximum[row + r], tile.sum[row + r]);
  }
  int col = 0;
  for (; col + 64 <= tile.dim; col += 64) accumulate<Rows, 4>(tile, w, row, col);
  for (; col < tile.dim; col += 32) accumulate<Rows, 2>(tile, w, row, col);
}

// Limited by: the two FMA ports; 128 dim products a row against some 60 other instructions.
// Registers: see attention_rows. Tried and lost: a pass over all rows for each stage (the scores
// leave the first-level cache).
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void attend(const AttentionTile& tile) noexcept {
  static_assert(kv_tile == 64, "the keys that a row sees are one 64-bit mask");
  each_tile(0, tile.rows, [&]<int Rows>(int row) { attend_rows<Rows>(tile, row); });
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void join(const float* out, const float* maximum, const float* sum, int rows,
                                 int dim, float* total, float* total_maximum,
                                 float* total_sum) noexcept {
  for (int r = 0; r < rows; ++r, out += dim, total += dim) {
    if (maximum[r] == -std::numeric_limits<float>::infinity()) continue;
    const float joint = std::max(total_maximum[r], maximum[r]);
    const float before = exp2(total_maximum[r] - joint), after = exp2(maximum[r] - joint);
    const __m512 b = _mm512_set1_ps(before), a = _mm512_set1_ps(after);
    for (int d = 0; d < dim; d += 16) {
      const __m512 earlier = _mm512_mul_ps(_mm512_loadu_ps(total + d), b);
      _mm512_storeu_ps(total + d, _mm512_fmadd_ps(_mm512_loadu_ps(out + d), a, earlier));
    }
    total_sum[r] = total_sum[r] * before + sum[r] * after;
    total_maximum[r] = joint;
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void scale(const float* x, int count, float factor, float* y) noexcept {
  const __m512 by = _mm512_set1_ps(factor);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(by, _mm512_maskz_loadu_ps(mask, x + i)));
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
