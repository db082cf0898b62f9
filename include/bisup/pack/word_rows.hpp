// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do narrow panels multiply? Rows of words with one scale a token: 8-bit codes as they are, or
// floats that were rounded (kernel/word_rows.hpp).

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

struct WordsView {
  const std::int16_t* words = nullptr;  // [tokens, 2 * pairs]; zero in the padding
  const float* scales = nullptr;        // [tokens]
  int tokens = 0, pairs = 0;

  [[nodiscard]] const std::int16_t* row(int token) const noexcept {
    return words + static_cast<std::ptrdiff_t>(token) * 2 * pairs;
  }
};

// Its memory is reused from call to call.
class WordRows {
 public:
  // The largest word for so many columns: their products with codes of -128 ... 127 are summed in
  // 32 bits.
  [[nodiscard]] static constexpr int largest_word(int cols) {
    return std::min(32767, 2147483647 / 128 / cols);
  }

  // For `tokens` rows of `cols` words; those behind an odd count are zero, the others not set.
  void resize(int tokens, int cols) {
    words_.resize(tokens, (cols + 1) / 2 * 2), scales_.resize(tokens, 1);
    if (cols % 2 != 0) {
      for (int t = 0; t < tokens; ++t) words_(t, cols) = 0;
    }
  }
  [[nodiscard]] std::int16_t* row(int token) { return words_.row(token).data(); }
  [[nodiscard]] float& scale(int token) { return scales_(token, 0); }

  // The first `cols` of codes [tokens, at least cols], with scales [tokens, 1].
  void widen(MatrixRef<const std::int8_t> codes, MatrixRef<const float> scales, int cols) {
    BISUP_EXPECTS(codes.cols() >= cols && scales.rows() == codes.rows());
    BISUP_EXPECTS(largest_word(cols) >= 128);
    resize(codes.rows(), cols);
    for (int t = 0; t < codes.rows(); ++t) {
      std::copy_n(codes.row_data(t), cols, words_.row(t).data());
      scales_(t, 0) = scales(t, 0);
    }
  }
  [[nodiscard]] WordsView view() const {
    return {words_.data(), scales_.data(), words_.rows(), words_.cols() / 2};
  }

 private:
  Matrix<std::int16_t> words_;
  Matrix<float> scales_;
};

}  // namespace bisup
