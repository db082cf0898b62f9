// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/pack/narrow_panels.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/packed_problem.hpp>

namespace {

using namespace bisup;

int code_at(const NarrowView& view, int row, int col) {
  return view.panel(row / 16)[static_cast<std::size_t>(col / 2) * NarrowView::pair_size +
                              static_cast<std::size_t>(row % 16 * 2 + col % 2)];
}

TEST_CASE("narrow panels hold every code where its pair of columns is, and zeros beside") {
  const NarrowPanels panels(18, 5, [](int r, int c) { return 10 * c - r; });
  const NarrowView view = panels.view();
  CHECK(view.rows == 18);
  CHECK(view.pairs == 3);
  CHECK(view.panels() == 2);
  CHECK(view.scales == nullptr);
  CHECK(view.scale(17) == 1);
  for (int r = 0; r < 32; ++r) {
    for (int c = 0; c < 6; ++c) REQUIRE(code_at(view, r, c) == (r < 18 && c < 5 ? 10 * c - r : 0));
  }
}

TEST_CASE("packed weights of 8 bits with one scale a row are the same numbers in narrow panels") {
  for (const Scale scale : {Scale::f16, Scale::bf16, Scale::f32}) {
    const PackedProblem w({.bits = 8, .group = 0, .scale = scale}, 33, 18);
    const NarrowPanels panels = NarrowPanels::of(w.panels);
    for (int r = 0; r < 33; ++r) {
      for (int c = 0; c < 18; ++c) {
        const int code = load_code<8, panel16>(w.panels.codes + w.panels.shape.tile_offset(r, c),
                                               r % 16, c % 32);
        REQUIRE(code_at(panels.view(), r, c) == code - 128);
      }
      REQUIRE(panels.view().scale(r) == w.panels.scale(r, 0));
    }
  }
  for (const Format other : {Format{.bits = 4, .group = 0}, Format{.bits = 8, .group = 32},
                             Format{.bits = 8, .group = 0, .zero = Zero::affine}}) {
    const PackedProblem w(other, 16, 64);
    CHECK_FALSE(NarrowPanels::holds(w.panels.shape));
    CHECK_THROWS_AS(NarrowPanels::of(w.panels), ContractViolation);
  }
  CHECK(NarrowPanels::holds({{.bits = 8, .group = 32}, 16, 20}));  // one group
}

TEST_CASE("scales of narrow panels are one a row or none") {
  const auto zero = [](int, int) { return 0; };
  CHECK_THROWS_AS(NarrowPanels(4, 2, zero, std::vector<float>(3)), ContractViolation);
  CHECK_THROWS_AS(NarrowPanels(0, 2, zero), ContractViolation);
}

}  // namespace
