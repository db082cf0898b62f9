// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 VNNI attend to a tile whose packed keys and values are words? As
// lanes/attention.hpp, but vpdpwssd sums two dims of a score, or two tokens of a value, where a
// float product sums one, and codes become words in fewer instructions than floats.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <bisup/kernel/avx512/kv_words.hpp>
#include <bisup/kernel/avx512/word_dot.hpp>
#include <bisup/kernel/even_tiles.hpp>
#include <bisup/kernel/float_attention.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512_vnni {

using avx512::attention_rows;

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE __m512i two_words(const std::int16_t* at) noexcept {
  std::int32_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// Loaded once: g++ would load it again for each row, and loads, not products, would be the limit.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE __m512i load_once(const std::int16_t* at) noexcept {
  __m512i words = _mm512_loadu_si512(at);
  asm("" : "+v"(words));
  return words;
}

// Scores of Rows queries, from `row` on, with the keys of Panels panels from `first` on.
template <int Rows, int Panels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void score(const WordTile& tile, int dim, int row, int first, float* scores) noexcept {
  const std::int16_t* queries = tile.queries + static_cast<std::ptrdiff_t>(row) * dim;
  for (int begin = 0; begin < dim; begin += tile.key_group) {
    const int end = std::min(begin + tile.key_group, dim);
    __m512i sum[Rows][Panels];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) sum[r][p] = _mm512_setzero_si512();
    }
    const std::int16_t* words[Panels];
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) words[p] = tile.keys[first + p].words + begin * kv_panel;
    const std::int16_t* at = queries + begin;
    for (int d = begin; d < end; d += 2, at += 2) {
      __m512i key[Panels];
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) key[p] = load_once(words[p]), words[p] += 2 * kv_panel;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m512i query = two_words(at + static_cast<std::ptrdiff_t>(r) * dim);
#pragma GCC unroll 4
        for (int p = 0; p < Panels; ++p) multiply_add(sum[r][p], query, key[p]);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      const auto scales = static_cast<std::size_t>(begin / tile.key_group * kv_panel);
      const __m512 scale = avx512::load_scales(tile.keys[first + p].scales, Scale::f16, scales);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        float* at = scores + r * kv_tile + (first + p) * kv_panel;
        const __m512 before =
            begin == 0 ? _mm512_set1_ps(tile.query_centers[row + r]) : _mm512_loadu_ps(at);
        const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][p]), scale);
        _mm512_storeu_ps(
            at, _mm512_fmadd_ps(product, _mm512_set1_ps(tile.query_scales[row + r]), before));
      }
    }
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE
    void score(const WordTile& tile, int dim, int row, KeyRange range, float* scores) noexcept {
  if (range.empty()) return;
  const int first = range.first / kv_panel, panels = (range.last + kv_panel - 1) / kv_panel - first;
  switch (panels) {
    case 1: return score<Rows, 1>(tile, dim, row, first, scores);
    case 2: return score<Rows, 2>(tile, dim, row, first, scores);
    case 3: return score<Rows, 3>(tile, dim, row, first, scores);
    default: return score<Rows, 4>(tile, dim, row, first, scores);
  }
}

struct WordWeights {
  std::int16_t words[attention_rows * kv_tile];
  float scale[attention_rows];
};

// A row's weights of packed keys times the scales of one group of their values, as words with one
// scale: 15 bits of the largest. Other keys' words are zero, whatever their scales.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void to_words(const RowSpan& span, const float* packed,
                                  const float* value_scales, std::int16_t* words,
                                  float& scale) noexcept {
  const KeyRange range = span.packed_keys();
  const std::uint64_t seen = range.empty() ? 0 : keys_below(range.last) & ~keys_below(range.first);
  __m512 weight[kv_panels];
  __m512i largest = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    weight[p] = _mm512_maskz_mul_ps(static_cast<__mmask16>(seen >> (p * kv_panel)),
                                    _mm512_loadu_ps(packed + p * kv_panel),
                                    _mm512_loadu_ps(value_scales + p * kv_panel));
    largest = _mm512_max_epi32(largest, avx512::magnitude_bits(weight[p]));
  }
  const float magnitude = avx512::largest_magnitude(largest);
  const __m512 inverse = _mm512_set1_ps(magnitude > 0 ? word_levels / magnitude : 0.0f);
  scale = magnitude / word_levels;
#pragma GCC unroll 4
  for (int p = 0; p < kv_panels; ++p) {
    const __m512i word = _mm512_cvtps_epi32(_mm512_mul_ps(weight[p], inverse));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + p * kv_panel),
                        _mm512_cvtepi32_epi16(word));
  }
}

// out += weights times values, 16 Vectors columns, over the panels that hold `range`.
template <int Rows, int Vectors>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void accumulate(const AttentionTile& tile, const WordWeights& w, int row,
                                    int col, KeyRange range) noexcept {
  __m512i sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[r][v] = _mm512_setzero_si512();
  }
  for (int p = range.first / kv_panel; p * kv_panel < range.last; ++p) {
    const int begin = std::max(range.first, p * kv_panel) / 2 * 2;
    const int end = std::min(range.last, (p + 1) * kv_panel);
    const std::int16_t* values =
        tile.words->values[p].words + (begin - p * kv_panel) * tile.dim + 2 * col;
    for (int j = begin; j < end; j += 2, values += 2 * tile.dim) {
      __m512i value[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) value[v] = load_once(values + v * 32);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m512i weight = two_words(w.words + r * kv_tile + j);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) multiply_add(sum[r][v], weight, value[v]);
      }
    }
  }
  float* out = tile.out + static_cast<std::ptrdiff_t>(row) * tile.dim + col;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r, out += tile.dim) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      _mm512_storeu_ps(out + v * 16,
                       _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), _mm512_set1_ps(w.scale[r]),
                                       _mm512_loadu_ps(out + v * 16)));
    }
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED void attend_rows(const AttentionTile& tile, int row) noexcept {
  const WordTile& words = *tile.words;
  avx512::RowWeights w;
  RowSpan span[Rows];
  if (!avx512::find_keys(tile, row, span, w)) return;
  const float* queries = tile.queries + static_cast<std::ptrdiff_t>(row) * tile.dim;
  avx512::score<Rows>(queries, tile.dim, tile.exact_keys, w.exact_keys, w.exact);
  score<Rows>(words, tile.dim, row, w.packed_keys, w.packed);
  for (int r = 0; r < Rows; ++r) avx512::soften_row(tile, span[r], row + r, r, w);
  // What was summed before, and exact keys; the packed ones are added behind them.
  const KeyRange packed_keys = std::exchange(w.packed_keys, {});
  avx512::accumulate<Rows>(tile, w, row);
  if (packed_keys.empty()) return;
  WordWeights in_words;
  for (int begin = 0; begin < tile.dim; begin += words.value_group) {
    alignas(64) float scales[kv_tile];
    for (int p = 0; p < kv_panels; ++p) {
      const auto at = static_cast<std::size_t>(begin / words.value_group * kv_panel);
      _mm512_store_ps(scales + p * kv_panel,
                      avx512::load_scales(words.values[p].scales, Scale::f16, at));
    }
    for (int r = 0; r < Rows; ++r) {
      to_words(span[r], w.packed + r * kv_tile, scales, in_words.words + r * kv_tile,
               in_words.scale[r]);
    }
    const int end = std::min(begin + words.value_group, tile.dim);
    int col = begin;
    for (; col + 64 <= end; col += 64) accumulate<Rows, 4>(tile, in_words, row, col, packed_keys);
    for (; col < end; col += 32) accumulate<Rows, 2>(tile, in_words, row, col, packed_keys);
  }
}

// Limited by: the two ports of vpdpwssd, for which a row, of 64 keys and 64 dims, has 256, against
// 512 float products; few rows are limited by what unpacks codes, a third of the time of 8 rows.
// Lost: asking for the next tile's codes ahead, and huge pages for the cache (no difference).
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline void attend(const AttentionTile& tile) noexcept {
  if (tile.words == nullptr) return avx512::attend(tile);
  each_tile(0, tile.rows, [&]<int Rows>(int row) { attend_rows<Rows>(tile, row); });
}

}  // namespace bisup::avx512_vnni
BISUP_INTRINSICS_END
#endif
