// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Compiled twice, with and without -m flags: BISUP_UNIT names the function of this translation unit.

#include <vector>

#include <bisup/core/random.hpp>
#include <bisup/ops/gemv.hpp>
#include <bisup/quant/nearest.hpp>

// Not a namespace-local template: the point is that both units instantiate the same symbols.
std::vector<float> BISUP_UNIT() {
  bisup::Random random(3);
  bisup::Matrix<float> weights(48, 172);
  for (int r = 0; r < 48; ++r) {
    for (float& w : weights.row(r)) w = static_cast<float>(random.normal());
  }
  std::vector<float> x(172), y(48), all;
  for (float& v : x) v = static_cast<float>(random.normal());
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const auto zero : {bisup::Zero::symmetric, bisup::Zero::affine}) {
      const auto packed = bisup::quantize(weights.ref(), {.bits = bits, .group = 64, .zero = zero});
      bisup::gemv(packed.value().panels(), x, y);
      all.insert(all.end(), y.begin(), y.end());
    }
  }
  return all;
}
