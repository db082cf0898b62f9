// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Rounds a matrix to 4 bits, multiplies it by a vector, and says how far the result is off.
#include <bisup/bisup.hpp>
#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr int rows = 1024, cols = 1024;
  bisup::Matrix<float> weights(rows, cols);
  std::vector<float> x(cols), y(rows);
  bisup::Random random(1);
  for (int r = 0; r < rows; ++r) {
    for (float& w : weights.row(r)) w = static_cast<float>(random.normal());
  }
  for (float& v : x) v = static_cast<float>(random.normal());

  const auto packed = bisup::quantize<bisup::int4_g128>(weights.ref());
  if (!packed) {
    std::fprintf(stderr, "%s\n", packed.error().describe().c_str());
    return 1;
  }
  bisup::gemv(packed->view(), x, y);

  double error = 0, power = 0;
  for (int r = 0; r < rows; ++r) {
    double exact = 0;
    for (int c = 0; c < cols; ++c)
      exact += static_cast<double>(weights(r, c)) * x[static_cast<std::size_t>(c)];
    error += std::pow(y[static_cast<std::size_t>(r)] - exact, 2), power += exact * exact;
  }
  const double relative = std::sqrt(error / power);
  std::printf("%.3f bits per weight, relative error %.4f\n", packed->shape().bits_per_weight(),
              relative);
  return relative > 0.05 && relative < 0.15 ? 0 : 1;  // 4 bits in groups of 128 lose about a tenth
}
