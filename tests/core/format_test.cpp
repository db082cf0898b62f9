// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/format.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

struct not_a_format {};
struct nine_bits {
  static constexpr Format value{.bits = 9};
};
struct own_format : FormatOf<Format{.bits = 5, .group = 96, .zero = Zero::affine}> {};

static_assert(AnyFormat<int4_g128> && AnyFormat<int8_channel> && AnyFormat<own_format>);
static_assert(!AnyFormat<not_a_format> && !AnyFormat<nine_bits> && !AnyFormat<int>);

TEST_CASE("a format has 1 to 8 bits and groups of whole tiles") {
  for (int bits = -1; bits <= 10; ++bits) {
    for (int group = -32; group <= 256; ++group) {
      const bool wanted = bits >= 1 && bits <= 8 && group >= 0 && (group & 31) == 0;
      CHECK(Format{.bits = bits, .group = group}.valid() == wanted);
    }
  }
}

TEST_CASE("the range of codes follows from bits and zero kind") {
  for (int bits = 1; bits <= 8; ++bits) {
    const Format symmetric{.bits = bits}, affine{.bits = bits, .zero = Zero::affine};
    const int codes = 1 << bits;
    CHECK(symmetric.highest() - symmetric.lowest() + 1 == codes);
    CHECK(symmetric.highest() == -symmetric.lowest() - 1);
    CHECK(affine.lowest() == 0);
    CHECK(affine.highest() == codes - 1);
    CHECK(affine.smallest_used() == 0);
    CHECK(symmetric.smallest_used() == (bits == 8 ? -127 : -codes / 2));
  }
}

TEST_CASE("bits per weight count codes, scales and zero points") {
  CHECK(Format{}.bits_per_weight() == 4 + 16.0 / 128);
  CHECK(Format{.group = 32, .scale = Scale::f32}.bits_per_weight() == 4 + 32.0 / 32);
  CHECK(Format{.group = 64, .zero = Zero::affine, .scale = Scale::bf16}.bits_per_weight() ==
        4 + (16.0 + 8) / 64);
  CHECK(Format{.bits = 8, .group = 0}.bits_per_weight() == 8);
}

TEST_CASE("a row's groups: the last may be short, group 0 is the row") {
  CHECK(Format{.group = 128}.groups_per_row(576) == 5);
  CHECK(Format{.group = 64}.groups_per_row(576) == 9);
  CHECK(Format{.group = 64}.groups_per_row(172) == 3);
  CHECK(Format{.group = 0}.groups_per_row(172) == 1);
  CHECK(Format{.group = 128}.groups_per_row(1) == 1);
}

TEST_CASE("the type of a format repeats its value") {
  CHECK(own_format::value == Format{.bits = 5, .group = 96, .zero = Zero::affine});
  CHECK(own_format::code_bytes == 60);
  CHECK(int3_g64::lowest == -4);
  CHECK(uint4_g64::lowest == 0);
}

}  // namespace
