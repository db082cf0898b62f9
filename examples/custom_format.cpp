// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A format of your own: one line, without touching the library.
#include <bisup/core/random.hpp>
#include <bisup/ops/gemv.hpp>
#include <bisup/quant/nearest.hpp>
#include <cmath>
#include <cstdio>

struct uint3_g32
    : bisup::FormatOf<bisup::Format{.bits = 3, .group = 32, .zero = bisup::Zero::affine}> {};

int main() {
  bisup::Matrix<float> weights(64, 256);
  bisup::Random random(1);
  for (int r = 0; r < weights.rows(); ++r) {
    for (float& w : weights.row(r)) w = static_cast<float>(random.uniform());  // all positive
  }
  const auto packed = bisup::quantize<uint3_g32>(weights.ref());
  if (!packed) return 1;
  std::printf("%.2f bits per weight\n", packed->shape().bits_per_weight());

  const auto view = packed->view();
  float largest = 0;
  for (int r = 0; r < weights.rows(); ++r) {
    for (int c = 0; c < weights.cols(); ++c) {
      largest = std::fmax(largest, std::fabs(view(r, c) - weights(r, c)));
    }
  }
  std::printf("largest error %.4f\n", static_cast<double>(largest));
  // Seven steps span a group's range, at most [0, 1): half a step, and half more where the rounded
  // zero point shifts it.
  return largest > 0 && largest <= 1.01f / 7 ? 0 : 1;
}
