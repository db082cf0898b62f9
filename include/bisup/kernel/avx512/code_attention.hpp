// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI attend to a tile whose packed keys and values are codes? As
// lanes/attention.hpp, but a query's and a weight's number is two bytes, and vpdpbusd sums four
// dims of a score, or four tokens of a value, by each: as many instructions as for words of 16
// bits, but codes are read as they lie, or with a byte for each.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <bisup/kernel/avx512/code_dot.hpp>
#include <bisup/kernel/avx512/kv_bytes.hpp>
#include <bisup/kernel/even_tiles.hpp>
#include <bisup/kernel/float_attention.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512_vnni {

using avx512::add_products, avx512::attention_rows, avx512::broadcast_codes;

// Loaded once: g++ would load it again for each row, and loads, not products, would be the limit.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE __m512i load_once(const std::uint8_t* at) noexcept {
  __m512i codes = _mm512_loadu_si512(at);
  asm("" : "+v"(codes));
  return codes;
}

// Two sums for each of Rows rows and Count vectors: products with large bytes, and with small ones.
template <int Rows, int Count>
struct ByteSums {
  __m512i large[Rows][Count], small[Rows][Count];

  // The products of both bytes, of one row, with `codes`.
  BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
  BISUP_ALWAYS_INLINE void add(int row, const __m512i (&codes)[Count], const std::int8_t* large_at,
                               const std::int8_t* small_at) noexcept {
    const __m512i large_four = broadcast_codes(large_at), small_four = broadcast_codes(small_at);
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
      add_products(large[row][i], codes[i], large_four);
      add_products(small[row][i], codes[i], small_four);
    }
  }
  BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
  BISUP_ALWAYS_INLINE __m512i joined(int row, int i) const noexcept {
    return _mm512_add_epi32(_mm512_slli_epi32(large[row][i], 8), small[row][i]);
  }
};

// Scores of Rows queries, from `row` on, with the keys of Panels panels from `first` on.
template <int Rows, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void score(const CodeTile& tile, int dim, int row, int first, float* scores) noexcept {
  const int groups = tile.key_groups(dim);
  const std::int8_t* const queries = tile.queries + static_cast<std::ptrdiff_t>(row) * 2 * dim;
  const std::int32_t* const sums = tile.query_sums + static_cast<std::ptrdiff_t>(row) * groups;
  for (int group = 0; group < groups; ++group) {
    const int begin = group * tile.key_group, end = std::min(begin + tile.key_group, dim);
    ByteSums<Rows, Panels> sum;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) sum.large[r][p] = sum.small[r][p] = _mm512_setzero_si512();
    }
    const std::uint8_t* codes[Panels];
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) codes[p] = tile.keys[first + p].codes + begin * kv_panel;
    const std::int8_t* at = queries + 2 * begin;
    for (int d = begin; d < end; d += 4, at += 8) {
      __m512i key[Panels];
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) key[p] = load_once(codes[p]), codes[p] += 4 * kv_panel;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const std::int8_t* query = at + static_cast<std::ptrdiff_t>(r) * 2 * dim;
        sum.add(r, key, query, query + 4);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      const CodePanel& panel = tile.keys[first + p];
      const int parameters = group * kv_panel;
      const __m512i zero = avx512::load_bytes(panel.zeros + parameters);
      const __m512 scale =
          avx512::load_scales(panel.scales, Scale::f16, static_cast<std::size_t>(parameters));
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        float* const to = scores + r * kv_tile + (first + p) * kv_panel;
        const __m512i of_zero =
            _mm512_mullo_epi32(zero, _mm512_set1_epi32(sums[r * groups + group]));
        const __m512 product = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum.joined(r, p), of_zero));
        const __m512 before =
            group == 0 ? _mm512_set1_ps(tile.query_centers[row + r]) : _mm512_loadu_ps(to);
        const __m512 query_scale = _mm512_set1_ps(tile.query_scales[row + r]);
        _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_mul_ps(product, scale), query_scale, before));
      }
    }
  }
}

// Few rows take four panels at once, so that there are sums enough to wait for none.
template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void score(const CodeTile& tile, int dim, int row, KeyRange range, float* scores) noexcept {
  constexpr int most = Rows <= 3 ? 4 : 2;
  int p = range.first / kv_panel;
  const int last = (range.last + kv_panel - 1) / kv_panel;
  for (; p + most <= last; p += most) score<Rows, most>(tile, dim, row, p, scores);
  if constexpr (most > 2) {
    if (p + 2 <= last) score<Rows, 2>(tile, dim, row, p, scores), p += 2;
  }
  if (p < last) score<Rows, 1>(tile, dim, row, p, scores);
}

// Weights of Rows rows as integers of two bytes, four tokens side by side. Where the four tokens
// from 16 panel + 4 four on lie: packing leaves them so.
struct ByteWeights {
  std::int8_t large[attention_rows * kv_tile], small[attention_rows * kv_tile];
  std::int32_t zeros[attention_rows];  // sums of weight times zero point
  float scale[attention_rows];

  [[nodiscard]] static constexpr int place(int panel, int four) {
    return 4 * (kv_panels * four + panel);
  }
};

// What one group of a tile's values is multiplied by, and its zero points, key by key: the scales,
// and the same in steps of which the largest has two_byte_levels.
struct ValueGroup {
  alignas(64) float scales[kv_tile], levels[kv_tile];
  alignas(64) std::int32_t zeros[kv_tile];
  float step;

  BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
  BISUP_ALWAYS_INLINE ValueGroup(const CodeTile& tile, int group) noexcept {
    __m512 scale[kv_panels];
    __m512i largest = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int p = 0; p < kv_panels; ++p) {
      const CodePanel& panel = tile.values[p];
      const int at = group * kv_panel;
      scale[p] = avx512::load_scales(panel.scales, Scale::f16, static_cast<std::size_t>(at));
      largest = _mm512_max_epi32(largest, avx512::magnitude_bits(scale[p]));
      _mm512_store_ps(scales + p * kv_panel, scale[p]);
      _mm512_store_si512(zeros + p * kv_panel, avx512::load_bytes(panel.zeros + at));
    }
    const float magnitude = avx512::largest_magnitude(largest);
    const __m512 inverse = _mm512_set1_ps(magnitude > 0 ? two_byte_levels / magnitude : 0.0f);
    step = magnitude / two_byte_levels;
#pragma GCC unroll 4
    for (int p = 0; p < kv_panels; ++p)
      _mm512_store_ps(levels + p * kv_panel, _mm512_mul_ps(scale[p], inverse));
  }
};

// Row r of the weights, as integers.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void store_weights(const __m512i (&weight)[kv_panels], const ValueGroup& group,
                                       int r, ByteWeights& to) noexcept {
  __m512i of_zeros = _mm512_setzero_si512(), large[2], small[2];
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    // Both are words whose upper half is zero.
    of_zeros = _mm512_add_epi32(
        of_zeros, _mm512_madd_epi16(weight[p], _mm512_load_si512(group.zeros + p * kv_panel)));
  }
  to.zeros[r] = avx512::sum_lanes(of_zeros);
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m512i words = _mm512_packs_epi32(weight[2 * half], weight[2 * half + 1]);
    large[half] = _mm512_srli_epi16(_mm512_add_epi16(words, _mm512_set1_epi16(128)), 8);
    small[half] = _mm512_and_si512(words, _mm512_set1_epi16(255));
  }
  _mm512_storeu_si512(to.large + r * kv_tile, _mm512_packs_epi16(large[0], large[1]));
  _mm512_storeu_si512(to.small + r * kv_tile, _mm512_packus_epi16(small[0], small[1]));
}

// A row that sees all keys of a tile, all packed. Its scores become weights of which the largest is
// one, whatever came before, so no tile waits for another; returns what they are to be multiplied
// by. For 8 rows behind 2048 keys .97 of the time of the general form, for a prefill of 512 .96.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE float soften_packed(float* scores, float& maximum, float& sum,
                                        float& correction) noexcept {
  __m512 score[kv_panels], highest = _mm512_loadu_ps(scores), added = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    score[p] = _mm512_loadu_ps(scores + p * kv_panel);
    highest = avx512::larger(highest, score[p]);
  }
  const float top = avx512::largest_lane(highest);
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    const __m512 weight = avx512::exp2(_mm512_sub_ps(score[p], _mm512_set1_ps(top)));
    added = _mm512_add_ps(added, weight);
    _mm512_storeu_ps(scores + p * kv_panel, weight);
  }
  const bool higher = top > maximum;
  const float power = avx512::exp2(higher ? maximum - top : top - maximum);
  const float factor = higher ? 1.0f : power;
  correction = higher ? power : 1.0f;
  maximum = higher ? top : maximum;
  sum = sum * correction + factor * avx512::sum_lanes(added);
  return factor;
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void to_bytes(const float* weights, float factor, const ValueGroup& group,
                                  int r, ByteWeights& to) noexcept {
  __m512i weight[kv_panels];
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    weight[p] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights + p * kv_panel),
                                                 _mm512_load_ps(group.levels + p * kv_panel)));
  }
  to.scale[r] = factor * group.step;
  store_weights(weight, group, r, to);
}

// Any other row: scales of keys that it does not see, or sees exact, may be anything, so its steps
// are those of its own largest weight times scale, and those keys' are zero.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void to_bytes(const float* weights, const RowSpan& span,
                                  const ValueGroup& group, int r, ByteWeights& to) noexcept {
  const KeyRange range = span.packed_keys();
  const std::uint64_t seen = range.empty() ? 0 : keys_below(range.last) & ~keys_below(range.first);
  __m512 product[kv_panels];
  __m512i largest = _mm512_setzero_si512(), weight[kv_panels];
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    product[p] = _mm512_maskz_mul_ps(static_cast<__mmask16>(seen >> (p * kv_panel)),
                                     _mm512_loadu_ps(weights + p * kv_panel),
                                     _mm512_load_ps(group.scales + p * kv_panel));
    largest = _mm512_max_epi32(largest, avx512::magnitude_bits(product[p]));
  }
  const float magnitude = avx512::largest_magnitude(largest);
  const __m512 inverse = _mm512_set1_ps(magnitude > 0 ? two_byte_levels / magnitude : 0.0f);
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p)
    weight[p] = _mm512_cvtps_epi32(_mm512_mul_ps(product[p], inverse));
  to.scale[r] = magnitude / two_byte_levels;
  store_weights(weight, group, r, to);
}

// out = correction out + weights times values, 16 Vectors columns, over the panels that hold
// `range`.
template <int Rows, int Vectors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void accumulate(const AttentionTile& tile, const ByteWeights& w, const float* correction,
                    int row, int col, KeyRange range) noexcept {
  ByteSums<Rows, Vectors> sum;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sum.large[r][v] = _mm512_setzero_si512();
      sum.small[r][v] = _mm512_set1_epi32(-w.zeros[r]);
    }
  }
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    const int begin = std::max(range.first - p * kv_panel, 0) / 4;
    const int end = (std::min(range.last - p * kv_panel, kv_panel) + 3) / 4;
    const std::uint8_t* values = tile.codes->values[p].codes + 4 * (begin * tile.dim + col);
    for (int four = begin; four < end; ++four, values += 4 * tile.dim) {
      __m512i value[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) value[v] = load_once(values + v * 64);
      const int at = ByteWeights::place(p, four);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
        sum.add(r, value, w.large + r * kv_tile + at, w.small + r * kv_tile + at);
    }
  }
  float* out = tile.out + static_cast<std::ptrdiff_t>(row) * tile.dim + col;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r, out += tile.dim) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const __m512 before =
          _mm512_mul_ps(_mm512_loadu_ps(out + v * 16), _mm512_set1_ps(correction[r]));
      _mm512_storeu_ps(out + v * 16, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum.joined(r, v)),
                                                     _mm512_set1_ps(w.scale[r]), before));
    }
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED void attend_rows(const AttentionTile& tile, int row) noexcept {
  const CodeTile& codes = *tile.codes;
  avx512::RowWeights w;
  RowSpan span[Rows];
  if (!avx512::find_keys(tile, row, span, w)) return;
  const float* queries = tile.queries + static_cast<std::ptrdiff_t>(row) * tile.dim;
  avx512::score<Rows>(queries, tile.dim, tile.exact_keys, w.exact_keys, w.exact);
  score<Rows>(codes, tile.dim, row, w.packed_keys, w.packed);
  bool whole[Rows];
  float factor[Rows];  // of whole rows
  for (int r = 0; r < Rows; ++r) {
    const KeyRange packed = span[r].packed_keys();
    whole[r] = packed.first == 0 && packed.last == kv_tile;
    if (whole[r]) {
      if (!w.exact_keys.empty()) std::fill_n(w.exact + r * kv_tile, kv_tile, 0.0f);
      factor[r] = soften_packed(w.packed + r * kv_tile, tile.maximum[row + r], tile.sum[row + r],
                                w.correction[r]);
    } else {
      avx512::soften_row(tile, span[r], row + r, r, w);
    }
  }
  const KeyRange packed_keys = std::exchange(w.packed_keys, {});
  if (!w.exact_keys.empty()) {
    // With what was summed before; the packed keys are added behind them.
    avx512::accumulate<Rows>(tile, w, row);
    std::fill_n(w.correction, Rows, 1.0f);
  }
  if (packed_keys.empty()) return;
  ByteWeights in_bytes;
  constexpr int vectors = Rows <= 3 ? 4 : 2;
  for (int begin = 0, group = 0; begin < tile.dim; begin += codes.value_group, ++group) {
    const ValueGroup of_values(codes, group);
    for (int r = 0; r < Rows; ++r) {
      const float* weights = w.packed + r * kv_tile;
      if (whole[r]) {
        to_bytes(weights, factor[r], of_values, r, in_bytes);
      } else {
        to_bytes(weights, span[r], of_values, r, in_bytes);
      }
    }
    const int end = std::min(begin + codes.value_group, tile.dim);
    int col = begin;
    for (; col + 16 * vectors <= end; col += 16 * vectors)
      accumulate<Rows, vectors>(tile, in_bytes, w.correction, row, col, packed_keys);
    if constexpr (vectors > 2) {
      if (col < end) accumulate<Rows, 2>(tile, in_bytes, w.correction, row, col, packed_keys);
    }
  }
}

// Limited by: vpdpbusd, of which a row, of 64 keys and 64 dims, has 256, and some 150 other
// instructions; by perf half of the time of 8 rows is the former. Lost: vpdpwssd by words of 15
// bits, as many products, but a third of the time made words of codes.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void attend(const AttentionTile& tile) noexcept {
  if (tile.codes == nullptr) return avx512::attend(tile);
  each_tile(0, tile.rows, [&]<int Rows>(int row) { attend_rows<Rows>(tile, row); });
}

}  // namespace bisup::avx512_vnni
BISUP_INTRINSICS_END
#endif
