// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/gemv.hpp>
#include <bisup/quant/nearest.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

using namespace bisup;

TEST_CASE("a product with packed weights is near the product with the floats they came from") {
  constexpr int rows = 40, cols = 200;
  Matrix<float> weights(rows, cols);
  Random random(1);
  for (int r = 0; r < rows; ++r) {
    for (float& v : weights.row(r)) v = static_cast<float>(random.normal());
  }
  std::vector<float> x(cols), y(rows);
  for (float& v : x) v = static_cast<float>(random.normal());
  ThreadPool pool(2);
  const auto packed = quantize<int8_g64>(weights.ref(), Nearest{}, pool);
  REQUIRE(packed);
  gemv(packed.value().view(), x, y, pool);
  double squares = 0;
  for (int r = 0; r < rows; ++r) {
    double exact = 0, bound = 0;
    for (int g = 0; g < 4; ++g) {
      double largest_w = 0, largest_x = 0, sum_w = 0, sum_x = 0;
      const int end = std::min(64 * g + 64, cols);
      for (int c = 64 * g; c < end; ++c) {
        const double w = weights(r, c), v = x[static_cast<std::size_t>(c)];
        exact += w * v;
        sum_w += std::fabs(w), sum_x += std::fabs(v);
        largest_w = std::max(largest_w, std::fabs(w)), largest_x = std::max(largest_x, std::fabs(v));
      }
      // |w x - w' x'| <= |w| e_x + |x| e_w + e_w e_x with half steps e = largest / 254; the scale of
      // the weights is stored in 16 bits, which adds 2^-11 of largest_w to e_w.
      const double half_w = largest_w * (1 / 254.0 + 0x1p-11), half_x = largest_x / 254.0;
      bound += sum_w * half_x + sum_x * half_w + (end - 64 * g) * half_w * half_x;
    }
    const double error = y[static_cast<std::size_t>(r)] - exact;
    REQUIRE(std::fabs(error) <= bound * 1.001);  // and the float sums, 2^-20 of it
    squares += error * error;
  }
  REQUIRE(squares > 0);  // eight bits are not thirty-two
}

TEST_CASE("a vector that does not fit is refused") {
  const auto packed = PackedTensor<int4_g64>::allocate(16, 64);
  REQUIRE(packed);
  std::vector<float> x(63), y(16);
  REQUIRE_THROWS_AS(gemv(packed.value().view(), x, y), ContractViolation);
  x.resize(64), y.resize(15);
  REQUIRE_THROWS_AS(gemv(packed.value().view(), x, y), ContractViolation);
}
