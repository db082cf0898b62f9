// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A layout says where each bit lives. must say: CodeLayout
#include <bisup/pack/packed_view.hpp>

struct own_layout {
  static constexpr int tile_rows = 1;
  static constexpr int tile_codes = 32;
#ifndef MUST_FAIL
  template <int Bits>
  static constexpr bisup::BitAddress at(int row, int code, int bit) {
    return bisup::sequential::at<Bits>(row, code, bit);
  }
#endif
};

bisup::PackedView<bisup::int4_g128, own_layout>* view = nullptr;
