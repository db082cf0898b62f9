// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/pack/layout.hpp>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

template <class L>
constexpr bool all_bijections =
    is_bijection<1, L>() && is_bijection<2, L>() && is_bijection<3, L>() && is_bijection<4, L>() &&
    is_bijection<5, L>() && is_bijection<6, L>() && is_bijection<7, L>() && is_bijection<8, L>();
static_assert(all_bijections<sequential>);
static_assert(all_bijections<planar>);
static_assert(all_bijections<panel16>);

struct loses_a_bit : sequential {
  template <int Bits>
  static constexpr BitAddress at(int row, int code, int bit) {
    return sequential::at<Bits>(row, code, bit == 1 ? 0 : bit);
  }
};
static_assert(!is_bijection<4, loses_a_bit>());
static_assert(is_bijection<1, loses_a_bit>());

template <int Bits, class L>
void stores_and_loads() {
  Random random(Bits);
  std::vector<std::uint8_t> tile(tile_bytes<L, Bits>);
  for (auto& byte : tile) byte = static_cast<std::uint8_t>(random.bits());
  std::vector<int> codes;
  for (int row = 0; row < L::tile_rows; ++row) {
    for (int code = 0; code < L::tile_codes; ++code) {
      codes.push_back(static_cast<int>(random.below(1u << Bits)));
      store_code<Bits, L>(tile.data(), row, code, codes.back());
    }
  }
  std::size_t i = 0;
  for (int row = 0; row < L::tile_rows; ++row) {
    for (int code = 0; code < L::tile_codes; ++code, ++i) {
      REQUIRE(load_code<Bits, L>(tile.data(), row, code) == codes[i]);
    }
  }
}

template <class L>
void stores_and_loads_every_width() {
  stores_and_loads<2, L>();
  stores_and_loads<3, L>();
  stores_and_loads<4, L>();
  stores_and_loads<5, L>();
  stores_and_loads<6, L>();
  stores_and_loads<7, L>();
  stores_and_loads<8, L>();
}

TEST_CASE("every code that is stored is loaded again, over any earlier contents") {
  stores_and_loads_every_width<sequential>();
  stores_and_loads_every_width<planar>();
  stores_and_loads_every_width<panel16>();
}

TEST_CASE("panel16 keeps whole codes in bytes: 4-bit steps 0 and 1 share a vector") {
  CHECK(panel16::at<4>(3, 2, 0).byte == 3 * 4 + 2);
  CHECK(panel16::at<4>(3, 6, 0).byte == 3 * 4 + 2);
  CHECK(panel16::at<4>(3, 6, 0).bit == 4);
  CHECK(panel16::whole_steps<3> == 6);
  CHECK(panel16::whole_steps<5> == 5);
  CHECK(panel16::whole_steps<6> == 6);
  CHECK(panel16::whole_steps<8> == 8);
}

}  // namespace
