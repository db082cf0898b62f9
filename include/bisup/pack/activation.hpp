// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a quantized linear read? Activations as signed 8-bit integers with one scale a token or
// a token and group, and the sums that the zero points of the weights need.

#include <cstdint>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

// How one input is quantized. `group` is the group of the weights that read it (sums follow it);
// scales follow it too unless token_scales is set.
struct ActivationFormat {
  int bits = 8;     // 2 ... 8
  int group = 128;  // 0: the whole row
  bool token_scales = false;
  float clip = 1;  // share of the largest magnitude that the codes cover
  friend constexpr bool operator==(const ActivationFormat&, const ActivationFormat&) = default;
};

// One scale a token: what keeper channels and an 8-bit lm_head read.
inline constexpr ActivationFormat int8_token{.bits = 8, .group = 0, .token_scales = true};

struct ActivationView {
  const std::int8_t* codes = nullptr;  // [tokens, padded_cols]; zero in the padding
  const float* scales = nullptr;       // [tokens, scale_groups]
  const std::int32_t* sums = nullptr;  // [tokens, groups]: of the codes of one group
  int tokens = 0, cols = 0, padded_cols = 0;
  int groups = 1, scale_groups = 1;  // scale_groups is groups or 1

  [[nodiscard]] float scale(int token, int group) const noexcept {
    return scales[token * scale_groups + (scale_groups == 1 ? 0 : group)];
  }
};

// Owns what an ActivationView shows; its memory is reused from call to call.
class QuantizedActivation {
 public:
  void resize(const ActivationFormat& format, int tokens, int cols) {
    BISUP_EXPECTS(format.bits >= 2 && format.bits <= 8 && format.group % 32 == 0 && tokens >= 0 &&
                  cols > 0);
    format_ = format, cols_ = cols;
    const int padded = (cols + 31) / 32 * 32;
    const int group = format.group == 0 ? padded : format.group;
    const int groups = (padded + group - 1) / group;
    codes_.resize(tokens, padded);
    sums_.resize(tokens, groups);
    scales_.resize(tokens, format.token_scales ? 1 : groups);
  }
  [[nodiscard]] const ActivationFormat& format() const noexcept { return format_; }
  [[nodiscard]] MatrixRef<std::int8_t> codes() { return codes_.ref(); }
  [[nodiscard]] MatrixRef<float> scales() { return scales_.ref(); }
  [[nodiscard]] MatrixRef<std::int32_t> sums() { return sums_.ref(); }
  [[nodiscard]] ActivationView view() const {
    return {codes_.data(), scales_.data(), sums_.data(), codes_.rows(),
            cols_,         codes_.cols(),  sums_.cols(), scales_.cols()};
  }

 private:
  ActivationFormat format_;
  int cols_ = 0;
  Matrix<std::int8_t> codes_;
  Matrix<float> scales_;
  Matrix<std::int32_t> sums_;
};

}  // namespace bisup
