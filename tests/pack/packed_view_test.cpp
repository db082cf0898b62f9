// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <bisup/pack/packed_view.hpp>
#include <set>

#include <bisup_test.hpp>

using namespace bisup;

static_assert(std::is_trivially_copyable_v<PackedView<int4_g128>>);
static_assert(!std::is_convertible_v<PackedView<int4_g128, panel16, Space::device>, PackedPanels>);

TEST_CASE("a shape counts tiles, groups and bytes with their padding") {
  // 172 x 572: 11 panels of 16 rows, 18 tiles of 32 codes, 4 groups of 128 and one of 64.
  constexpr PackedShape shape{Format{4, 128, Zero::affine, Scale::f16}, 172, 572};
  STATIC_REQUIRE(shape.row_tiles() == 11);
  STATIC_REQUIRE(shape.padded_rows() == 176);
  STATIC_REQUIRE(shape.padded_cols() == 576);
  STATIC_REQUIRE(shape.groups() == 5);
  STATIC_REQUIRE(shape.group_cols(0) == 128);
  STATIC_REQUIRE(shape.group_cols(4) == 60);
  STATIC_REQUIRE(shape.code_bytes() == 176 * 576 / 2);
  STATIC_REQUIRE(shape.bytes() == 176 * 576 / 2 + 176 * 5 * 3);
  STATIC_REQUIRE(PackedShape{Format{8, 0}, 16, 100}.groups() == 1);
  STATIC_REQUIRE(PackedShape{Format{8, 0}, 16, 100}.group_codes() == 128);
  // The figure of the format is reached when nothing is padded.
  constexpr PackedShape exact{int4_g128::value, 16, 256};
  STATIC_REQUIRE(exact.bits_per_weight() == int4_g128::value.bits_per_weight());
}

TEST_CASE("scales and tiles of different rows and groups are different") {
  constexpr PackedShape shape{Format{3, 64}, 35, 200};
  std::set<std::size_t> scales, tiles;
  for (int r = 0; r < shape.padded_rows(); ++r) {
    for (int g = 0; g < shape.groups(); ++g) scales.insert(shape.scale_index(r, g));
    for (int c = 0; c < shape.padded_cols(); ++c) tiles.insert(shape.tile_offset(r, c));
  }
  REQUIRE(scales.size() == shape.scale_count());
  REQUIRE(*scales.rbegin() == shape.scale_count() - 1);
  REQUIRE(tiles.size() * shape.tile_size() == shape.code_bytes());
  REQUIRE(*tiles.rbegin() == shape.code_bytes() - shape.tile_size());
}

TEST_CASE("typed and run-time views read the same weights") {
  struct uint3_g64 : FormatOf<Format{3, 64, Zero::affine, Scale::bf16}> {};
  auto tensor = PackedTensor<uint3_g64>::allocate(19, 100).value();
  const PackedShape shape = tensor.shape();
  Random random(5);
  for (std::size_t i = 0; i < shape.code_bytes(); ++i) tensor.buffer().codes()[i] = static_cast<std::uint8_t>(random.bits());
  for (std::size_t i = 0; i < shape.scale_count(); ++i) {
    static_cast<BFloat16*>(tensor.buffer().scales())[i] = to_bfloat16(static_cast<float>(random.uniform()));
    tensor.buffer().zeros()[i] = static_cast<std::uint8_t>(random.below(8));
  }
  const PackedView<uint3_g64> view = tensor.view();
  const PackedPanels panels = view;
  std::set<int> codes;
  for (int r = 0; r < 19; ++r) {
    for (int c = 0; c < 100; ++c) {
      const int g = c / 64;
      codes.insert(view.code(r, c));
      REQUIRE(view(r, c) == panels.scale(r, g) * static_cast<float>(view.code(r, c) - panels.zero(r, g)));
    }
  }
  REQUIRE(codes.size() == 8);  // every code occurs
}
