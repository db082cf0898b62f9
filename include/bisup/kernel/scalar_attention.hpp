// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does each part of attention compute? The specification of the attention kernels, as
// scalar.hpp is of the products: rounding and reading keys and values, the softmax step over one
// tile, and joining parts of a sequence that were computed apart.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <bisup/kernel/attention_tile.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/layout.hpp>

namespace bisup {

struct Extremes {
  float low = 0, high = 0;  // zero is always inside
};

// How one group is rounded: code = clamp(round(x * inverse), low, high) + zero.
struct KvRounding {
  float inverse, low, high;
  int zero;
};

// What rounding a group to y = scale level does: the sums of (x - y)^2, x^2 and x y.
struct RoundingSums {
  float error = 0, square = 0, product = 0;
};

namespace scalar {

BISUP_SCALAR inline Extremes extremes(const float* x, int count) noexcept {
  Extremes e;
  for (int i = 0; i < count; ++i) e.low = std::min(e.low, x[i]), e.high = std::max(e.high, x[i]);
  return e;
}

BISUP_SCALAR inline void round_group(const float* x, int count, const KvRounding& r,
                                     std::uint8_t* codes) noexcept {
  for (int i = 0; i < count; ++i) {
    const float level = std::min(std::max(std::nearbyint(x[i] * r.inverse), r.low), r.high);
    codes[i] = static_cast<std::uint8_t>(static_cast<int>(level) + r.zero);
  }
}

// Each sum is 16 of them side by side, joined in halves, so that every target ends in the same
// bits.
BISUP_SCALAR inline float joined(float (&sum)[16]) noexcept {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  }
  return sum[0];
}
BISUP_SCALAR inline RoundingSums rounding_sums(const float* x, int count, float scale,
                                               const KvRounding& r) noexcept {
  float error[16] = {}, square[16] = {}, product[16] = {};
  for (int i = 0; i < count; ++i) {
    const float level = std::min(std::max(std::nearbyint(x[i] * r.inverse), r.low), r.high);
    const float off = std::fma(-scale, level, x[i]), y = scale * level;
    error[i % 16] = std::fma(off, off, error[i % 16]);
    square[i % 16] = std::fma(x[i], x[i], square[i % 16]);
    product[i % 16] = std::fma(x[i], y, product[i % 16]);
  }
  return {joined(error), joined(square), joined(product)};
}

// y = factor x.
BISUP_SCALAR inline void scale(const float* x, int count, float factor, float* y) noexcept {
  for (int i = 0; i < count; ++i) y[i] = factor * x[i];
}

// An exact panel's floats, of any type.
template <DType Type>
BISUP_SCALAR void widen(const void* from, int count, float* out) noexcept {
  using T = std::conditional_t<Type == DType::f32, float,
                               std::conditional_t<Type == DType::f16, Half, BFloat16>>;
  for (int i = 0; i < count; ++i) out[i] = to_float(static_cast<const T*>(from)[i]);
}

// A packed panel of keys as floats: out[d][token] = scale (code - zero) + center[d], one rounding.
template <int Bits>
BISUP_SCALAR void dequantize_keys(const std::uint8_t* codes, const Half* scales,
                                  const std::uint8_t* zeros, const float* center,
                                  const KvPanel& panel, float* out) noexcept {
  for (int d = 0; d < panel.dim(); ++d) {
    const std::uint8_t* tile = codes + d / panel16::tile_codes * tile_bytes<panel16, Bits>;
    for (int t = 0; t < kv_panel; ++t) {
      const int at = d / panel.group() * kv_panel + t;
      const int code = load_code<Bits, panel16>(tile, t, d % panel16::tile_codes);
      out[d * kv_panel + t] =
          std::fma(to_float(scales[at]), static_cast<float>(code - zeros[at]), center[d]);
    }
  }
}

// The same with a scale and a zero point for each channel.
template <int Bits>
BISUP_SCALAR void dequantize_channel_keys(const std::uint8_t* codes, const Half* scales,
                                          const std::uint8_t* zeros, const float* center,
                                          const KvPanel& panel, float* out) noexcept {
  for (int d = 0; d < panel.dim(); ++d) {
    const std::uint8_t* tile = codes + d / panel16::tile_codes * tile_bytes<panel16, Bits>;
    for (int t = 0; t < kv_panel; ++t) {
      const int code = load_code<Bits, panel16>(tile, t, d % panel16::tile_codes);
      out[d * kv_panel + t] =
          std::fma(to_float(scales[d]), static_cast<float>(code - zeros[d]), center[d]);
    }
  }
}

// A packed panel of values as floats: out[token][d].
template <int Bits>
BISUP_SCALAR void dequantize_values(const std::uint8_t* codes, const Half* scales,
                                    const std::uint8_t* zeros, const KvPanel& panel,
                                    float* out) noexcept {
  for (int t = 0; t < kv_panel; ++t) {
    const std::uint8_t* row = codes + t * panel.token_bytes();
    for (int d = 0; d < panel.dim(); ++d) {
      const int at = d / panel.group() * kv_panel + t;
      const std::uint8_t* tile = row + d / sequential::tile_codes * tile_bytes<sequential, Bits>;
      const int code = load_code<Bits, sequential>(tile, 0, d % sequential::tile_codes);
      out[t * panel.dim() + d] = to_float(scales[at]) * static_cast<float>(code - zeros[at]);
    }
  }
}

// 2^x for x <= 0.
BISUP_SCALAR inline float exp2(float x) noexcept {
  x = std::max(x, smallest_exponent);
  const float whole = std::nearbyint(x), part = x - whole;
  float power = 0;
  for (const float term : exp2_terms) power = power * part + term;
  return power * std::bit_cast<float>((static_cast<std::int32_t>(whole) + 127) << 23);
}

// One step of the online softmax (Milakov and Gimelshein 2018): with scores s = q k, the new
// maximum m' and correction c = 2^(m - m'), sum = c sum + sum of 2^(s - m'), out = c out + sum of
// 2^(s - m') v.
BISUP_SCALAR inline void attend(const AttentionTile& tile) noexcept {
  for (int r = 0; r < tile.rows; ++r) {
    const RowSpan span = row_span(tile, r);
    if (span.first >= span.last) continue;
    const float* query = tile.queries + static_cast<std::ptrdiff_t>(r) * tile.dim;
    float weights[kv_tile];
    bool exact[kv_tile];
    float maximum = tile.maximum[r];
    for (int j = span.first; j < span.last; ++j) {
      exact[j] = j < span.exact_below || j >= span.exact_from;
      const float* const* panels = exact[j] ? tile.exact_keys : tile.packed_keys;
      const float* keys = panels[j / kv_panel];
      float score = 0;
      for (int d = 0; d < tile.dim; ++d) score += query[d] * keys[d * kv_panel + j % kv_panel];
      weights[j] = score;
      maximum = std::max(maximum, score);
    }
    const float correction = exp2(tile.maximum[r] - maximum);
    float sum = 0;
    for (int j = span.first; j < span.last; ++j) {
      weights[j] = exp2(weights[j] - maximum);
      sum += weights[j];
    }
    tile.maximum[r] = maximum;
    tile.sum[r] = tile.sum[r] * correction + sum;
    float* out = tile.out + static_cast<std::ptrdiff_t>(r) * tile.dim;
    for (int d = 0; d < tile.dim; ++d) {
      float value = out[d] * correction;
      for (const bool pass : {true, false}) {
        const float* const* panels = pass ? tile.exact_values : tile.packed_values;
        for (int j = span.first; j < span.last; ++j) {
          if (exact[j] != pass) continue;
          value += weights[j] * panels[j / kv_panel][j % kv_panel * tile.dim + d];
        }
      }
      out[d] = value;
    }
  }
}

// Joins a part of the sequence into what came before it: both are (out, maximum, sum) of `rows`
// rows.
BISUP_SCALAR inline void join(const float* out, const float* maximum, const float* sum, int rows,
                              int dim, float* total, float* total_maximum,
                              float* total_sum) noexcept {
  for (int r = 0; r < rows; ++r) {
    if (maximum[r] == -std::numeric_limits<float>::infinity()) continue;  // it saw no key
    const float joint = std::max(total_maximum[r], maximum[r]);
    const float before = exp2(total_maximum[r] - joint), after = exp2(maximum[r] - joint);
    for (int d = r * dim; d < (r + 1) * dim; ++d) total[d] = total[d] * before + out[d] * after;
    total_sum[r] = total_sum[r] * before + sum[r] * after;
    total_maximum[r] = joint;
  }
}

}  // namespace scalar
}  // namespace bisup
