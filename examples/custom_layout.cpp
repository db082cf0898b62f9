// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A layout of your own: a function to a bit address. That it loses no bit is proved when it
// compiles.
#include <bisup/core/random.hpp>
#include <bisup/quant/nearest.hpp>
#include <cstdio>

// Codes i and i + 16 share a byte's neighbourhood: what a 128-bit unpacker with one shift would
// want.
struct halves {
  static constexpr int tile_rows = 1;
  static constexpr int tile_codes = 32;
  template <int Bits>
  static constexpr bisup::BitAddress at(int, int code, int bit) {
    const int position = (code % 16 * 2 + code / 16) * Bits + bit;
    return {position / 8, position % 8};
  }
};
static_assert(bisup::BijectiveLayout<halves, 4> && bisup::BijectiveLayout<halves, 3>);

int main() {
  bisup::Matrix<float> weights(8, 256);
  bisup::Random random(1);
  for (int r = 0; r < weights.rows(); ++r) {
    for (float& w : weights.row(r)) w = static_cast<float>(random.normal());
  }
  const auto ours = bisup::quantize<bisup::int4_g128, halves>(weights.ref());
  const auto native = bisup::quantize<bisup::int4_g128>(weights.ref());
  if (!ours || !native) return 1;
  int different = 0;
  for (int r = 0; r < weights.rows(); ++r) {
    for (int c = 0; c < weights.cols(); ++c)
      different += ours->view()(r, c) != native->view()(r, c);
  }
  std::printf("%d of %d weights differ between the layouts\n", different,
              weights.rows() * weights.cols());
  return different;
}
