// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does one step of attention read and write? Some queries of one KV head against one tile of
// 64 keys: scores, online softmax and weighted values in one call. The queries carry the softmax
// scale and log2(e), so weights are powers of two.
//
// Results must not depend on which queries are computed together, so each row follows one order:
// scores sum over dim; weighted values sum over the exact keys of the tile, then over its packed
// keys, both by position. A key that a row does not see has weight zero, which changes no sum.

#include <algorithm>
#include <cstdint>

#include <bisup/pack/kv_view.hpp>

namespace bisup {

// A packed panel for kernels that multiply integers, a byte a code. Of keys [dim / 4][16][4], as
// codes of 8 bits lie in the cache; of values [4][dim][4]: four tokens side by side.
struct CodePanel {
  const std::uint8_t *codes = nullptr, *zeros = nullptr;  // zeros: [groups][16]
  const Half* scales = nullptr;                           // the same
};

// What such kernels read of a tile instead of its packed floats. A query's numbers are integers of
// two bytes, 256 large + small, both with a sign, and one scale a row: rounding them is far below
// rounding keys to 8 bits. The sum of 256 such numbers times codes without their zero points, of 8
// bits and a sign, stays below 2^31.
inline constexpr int two_byte_levels = 127 * 256 + 127, most_code_dims = 256;
struct CodeTile {
  const std::int8_t* queries = nullptr;      // [rows, dim / 4][2][4]: large bytes, small ones
  const std::int32_t* query_sums = nullptr;  // [rows, groups of keys]
  const float* query_scales = nullptr;       // [rows]
  const float* query_centers = nullptr;      // [rows]: products with what keys are stored without
  CodePanel keys[kv_panels] = {}, values[kv_panels] = {};
  int key_group = 0, value_group = 0;  // dims that share a scale, at most most_code_dims

  [[nodiscard]] constexpr int key_groups(int dim) const {
    return (dim + key_group - 1) / key_group;
  }
};

// Where the kernel writes one row of such queries.
struct QueryRow {
  std::int8_t* bytes;
  std::int32_t* sums;
  float *scale, *center;
};

struct AttentionTile {
  const float* queries = nullptr;  // [rows, dim]
  float* out = nullptr;            // [rows, dim], not yet divided by sum
  float* maximum = nullptr;        // [rows]
  float* sum = nullptr;            // [rows]
  int rows = 0, dim = 0;           // row r is query first_query + r / heads
  int heads = 1;                   // query heads that share this KV head
  int first_query = 0, first_key = 0;
  KvLaw law{};
  const float* exact_keys[kv_panels] = {};    // [dim][16] each
  const float* packed_keys[kv_panels] = {};   // the same, dequantized
  const float* exact_values[kv_panels] = {};  // [16][dim] each
  const float* packed_values[kv_panels] = {};
  const CodeTile* codes = nullptr;  // where there are packed codes instead of packed floats
};

// Keys first ... last - 1 of a tile; empty to begin with.
struct KeyRange {
  int first = kv_tile, last = 0;
  [[nodiscard]] constexpr bool empty() const { return first >= last; }
  constexpr void include(KeyRange other) {
    if (other.empty()) return;
    first = std::min(first, other.first), last = std::max(last, other.last);
  }
};

// What one row sees of a tile, as positions in it: keys first ... last - 1; of them exact_below and
// less, or exact_from and more, are exact.
struct RowSpan {
  int first, last, exact_below, exact_from;

  // The smallest ranges that hold all exact keys, and all packed ones, that the row sees.
  [[nodiscard]] constexpr KeyRange exact_keys() const {
    KeyRange range{first, std::min(last, exact_below)};
    if (range.empty()) range = {};
    range.include({std::max(first, exact_from), last});
    return range;
  }
  [[nodiscard]] constexpr KeyRange packed_keys() const {
    return {std::max(first, exact_below), std::min(last, exact_from)};
  }
};

[[nodiscard]] constexpr RowSpan row_span(const AttentionTile& tile, int row) {
  const int query = tile.first_query + row / tile.heads;
  const auto in_tile = [&](int key) { return std::clamp(key - tile.first_key, 0, kv_tile); };
  return {in_tile(tile.law.first_visible(query)), in_tile(query + 1), in_tile(tile.law.exact_below),
          in_tile(tile.law.first_recent(query))};
}

// The lowest `n` of a tile's keys, one bit each.
[[nodiscard]] constexpr std::uint64_t keys_below(int n) {
  return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
}

// 2^f for |f| <= 1/2: minimax in the relative error, 2e-9, with 2^0 = 1 exactly.
inline constexpr float exp2_terms[] = {0x1.41fbbcp-13f,
                                       0x1.5f3e54p-10f,
                                       0x1.3b2d4cp-7f,
                                       0x1.c6aee8p-5f,
                                       0x1.ebfbdcp-3f,
                                       0x1.62e430p-1f,
                                       1.0f};
// Below this weights are 2^-126: nothing, and the exponent stays normal.
inline constexpr float smallest_exponent = -126.0f;

}  // namespace bisup
