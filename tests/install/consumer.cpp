// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A program of somebody else: includes everything, quantizes a matrix, multiplies it by a vector.

#include <cmath>
#include <cstdio>
#include <vector>

#include <bisup/bisup.hpp>

int main() {
  bisup::Matrix<float> weights(40, 172);
  std::vector<float> x(172), y(40);
  bisup::Random random(1);
  for (int r = 0; r < 40; ++r) {
    for (float& w : weights.row(r)) w = static_cast<float>(random.normal());
  }
  for (float& v : x) v = static_cast<float>(random.normal());

  const auto packed = bisup::quantize<bisup::int8_g32>(weights.ref());
  if (!packed) return std::puts(packed.error().describe().c_str()), 1;
  bisup::gemv(packed.value().view(), x, y);

  double error = 0, norm = 0;
  for (int r = 0; r < 40; ++r) {
    double exact = 0;
    for (std::size_t c = 0; c < x.size(); ++c) exact += weights.row(r)[c] * x[c];
    error += std::pow(y[static_cast<std::size_t>(r)] - exact, 2), norm += exact * exact;
  }
  std::printf("bisup %s: relative error %.4f\n", BISUP_VERSION_STRING, std::sqrt(error / norm));
  // Two roundings to 8 bits with steps of some 2.2 sigma / 127: sqrt(2 / 12) * 2.2 / 127 = 0.7 %.
  return std::sqrt(error / norm) < 0.02 && error > 0 ? 0 : 1;
}
