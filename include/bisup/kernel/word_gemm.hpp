// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are dense products made of words? Every line is cut into blocks of the summed index that
// share one scale, 11.5 bits and a sign an element (block floating point), so that a processor
// sums two products where it sums one of floats. For gradients, which are noisier than that; the
// pieces are those of kernel/dense_operand.hpp, and the scalar form is their specification.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/scalar_dense.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup {

// k that share a scale. A packed block of `width` lines starts at k * width floats and holds
// [width] scales, then [(count + 1) / 2, width] pairs of words; an odd count has a zero behind it.
inline constexpr int word_block = 256;
// The largest word: 256 products of two stay below 2^31.
inline constexpr float product_levels = 2896;
// Of a block: below it everything is zero, so that the inverse of its scale is finite.
inline constexpr float smallest_word_magnitude = 0x1p-100f;
static_assert(word_block * product_levels * product_levels < 2147483648.0);

// What the largest magnitude of a block makes of its elements: word = round(x / scale). A block
// that is not finite has such a scale, and all that it is multiplied by is not finite either.
struct WordScale {
  float scale, inverse;

  [[nodiscard]] static WordScale of(float magnitude) noexcept {
    if (magnitude < smallest_word_magnitude) return {0, 0};
    return {magnitude / product_levels, product_levels / magnitude};
  }
};

namespace scalar {

BISUP_SCALAR inline void word_pack(const DenseOperand& from, int first, int lines, int first_k,
                                   int count, int width, float* out) noexcept {
  for (int k = 0; k < count; k += word_block) {
    const int here = std::min(word_block, count - k);
    float* const scales = out + static_cast<std::ptrdiff_t>(k) * width;
    auto* const words = reinterpret_cast<std::int16_t*>(scales + width);
    for (int i = 0; i < width; ++i) {
      const auto at = [&](int j) {
        return i < lines && j < here ? element(from, first + i, first_k + k + j) : 0.0f;
      };
      // Bits are compared, so that what is not finite is largest.
      std::uint32_t largest = 0;
      for (int j = 0; j < here; ++j)
        largest = std::max(largest, std::bit_cast<std::uint32_t>(at(j)) & 0x7fffffffu);
      const WordScale scale = WordScale::of(std::bit_cast<float>(largest));
      scales[i] = scale.scale;
      for (int j = 0; j < here + here % 2; ++j) {
        const float level = at(j) * scale.inverse;
        words[(j / 2 * width + i) * 2 + j % 2] =
            static_cast<std::int16_t>(std::isfinite(level) ? std::lrint(level) : 0);
      }
    }
  }
}

BISUP_SCALAR inline void word_tile(const float* x, int width, const float* w, int count, float* y,
                                   std::ptrdiff_t y_stride, int tokens, int rows, bool accumulate,
                                   Ahead) noexcept {
  for (int k = 0; k < count; k += word_block) {
    const int here = std::min(word_block, count - k);
    const float* const x_scales = x + static_cast<std::ptrdiff_t>(k) * width;
    const float* const w_scales = w + static_cast<std::ptrdiff_t>(k) * dense_panel_rows;
    const auto* const x_words = reinterpret_cast<const std::int16_t*>(x_scales + width);
    const auto* const w_words = reinterpret_cast<const std::int16_t*>(w_scales + dense_panel_rows);
    for (int t = 0; t < tokens; ++t) {
      for (int r = 0; r < rows; ++r) {
        std::int32_t sum = 0;
        for (int j = 0; j < here; ++j)
          sum += x_words[(j / 2 * width + t) * 2 + j % 2] *
                 w_words[(j / 2 * dense_panel_rows + r) * 2 + j % 2];
        float& to = y[t * y_stride + r];
        to = std::fma(static_cast<float>(sum), x_scales[t] * w_scales[r],
                      accumulate || k > 0 ? to : 0.0f);
      }
    }
  }
}

}  // namespace scalar

}  // namespace bisup
