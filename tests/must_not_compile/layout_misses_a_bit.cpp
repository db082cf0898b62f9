// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A layout that puts two bits in one place would lose codes. must say: BijectiveLayout
#include <bisup/pack/packed_tensor.hpp>

struct own_layout : bisup::panel16 {
  template <int Bits>
  static constexpr bisup::BitAddress at(int row, int code, int bit) {
#ifdef MUST_FAIL
    return bisup::panel16::at<Bits>(row, code, bit == 1 ? 0 : bit);
#else
    return bisup::panel16::at<Bits>(row, code, bit);
#endif
  }
};

bisup::PackedTensor<bisup::int4_g128, own_layout>* tensor = nullptr;
