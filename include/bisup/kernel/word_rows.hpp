// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do activations become words, and what do few rows of 8-bit codes make of them, the first
// factor of a low-rank branch? The scalar forms are the specification.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/target.hpp>

namespace bisup {

// Columns whose products of a word and a code one lane of at least four may sum in 32 bits.
inline constexpr int code_dot_block = 2048;
static_assert(code_dot_block / 4 * 32767LL * 128 < 2147483648LL);

// Rows of codes, `stride` apart, times words of tokens, `word_stride` apart, with a scale each.
struct CodeDots {
  const std::int8_t* codes;
  std::ptrdiff_t stride;
  int rows, cols;
  const std::int16_t* words;
  std::ptrdiff_t word_stride;
  const float* scales;
  int tokens;
  float* y;  // [tokens, rows], y_stride apart
  std::ptrdiff_t y_stride;
};

struct WordRowsKernel {
  float (*round)(const float* x, const float* factors, int cols, int levels,
                 std::int16_t* words) noexcept;
  void (*dots)(const CodeDots&) noexcept;
};

// From the bits of a row's largest magnitude, compared as integers so that what is not finite is
// largest: what its numbers are multiplied by, and its scale.
struct WordRounding {
  float inverse, scale;

  [[nodiscard]] static WordRounding of(std::int32_t largest_bits, int levels) noexcept {
    const auto largest = std::bit_cast<float>(largest_bits), most = static_cast<float>(levels);
    const float inverse = most / largest;
    if (std::isfinite(largest) && std::isfinite(inverse)) return {inverse, largest / most};
    return {0, largest * 0};  // NaN; or so little that it is nothing
  }
};

namespace scalar {

// word[c] = round(x[c] f[c] levels / max |x f|), to nearest; returns the scale. `factors` may be
// null: ones. A row with a number that is not finite has zeros and a scale that is NaN, so that it
// is not lost.
BISUP_SCALAR inline float round_words(const float* x, const float* factors, int cols, int levels,
                                      std::int16_t* words) noexcept {
  std::int32_t largest = 0;
  for (int c = 0; c < cols; ++c) {
    const float v = factors == nullptr ? x[c] : x[c] * factors[c];
    largest = std::max(largest, std::bit_cast<std::int32_t>(std::fabs(v)));
  }
  const WordRounding rounding = WordRounding::of(largest, levels);
  for (int c = 0; c < cols; ++c) {
    const float v = factors == nullptr ? x[c] : x[c] * factors[c];
    words[c] =
        static_cast<std::int16_t>(rounding.inverse == 0 ? 0 : std::nearbyint(v * rounding.inverse));
  }
  return rounding.scale;
}

// y[t, r] = s_t sum over c of code[r, c] word[t, c].
BISUP_SCALAR inline void code_dots(const CodeDots& d) noexcept {
  for (int t = 0; t < d.tokens; ++t) {
    for (int r = 0; r < d.rows; ++r) {
      std::int64_t dot = 0;
      for (int c = 0; c < d.cols; ++c)
        dot += std::int64_t{d.codes[r * d.stride + c]} * d.words[t * d.word_stride + c];
      d.y[t * d.y_stride + r] = d.scales[t] * static_cast<float>(dot);
    }
  }
}

}  // namespace scalar
}  // namespace bisup
