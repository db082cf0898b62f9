// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do few columns lie that stand beside packed weights of many, as keeper channels and the
// second factor of a low-rank branch do? As signed codes of 8 bits in panels of 16 rows, two
// columns side by side, which is what multiplying words in pairs reads. Their activations are
// words.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/pack/layout.hpp>
#include <bisup/pack/packed_view.hpp>

namespace bisup {

struct NarrowView {
  static constexpr std::size_t pair_size = 2 * panel16::tile_rows;

  const std::int8_t* codes = nullptr;  // [panels, pairs, 16, 2]; zero in the padding
  const float* scales = nullptr;       // [panels * 16], of a row; null: ones
  int rows = 0, pairs = 0;

  [[nodiscard]] int panels() const noexcept {
    return (rows + panel16::tile_rows - 1) / panel16::tile_rows;
  }
  [[nodiscard]] const std::int8_t* panel(int index) const noexcept {
    return codes + static_cast<std::size_t>(index) * static_cast<std::size_t>(pairs) * pair_size;
  }
  [[nodiscard]] float scale(int row) const noexcept { return scales == nullptr ? 1 : scales[row]; }
};

class NarrowPanels {
 public:
  // Codes [rows, cols] by code(row, col), -128 ... 127; scales [rows], or none: ones.
  template <class Code>
  NarrowPanels(int rows, int cols, Code code, std::vector<float> scales = {})
      : rows_(rows), pairs_((cols + 1) / 2), scales_(std::move(scales)) {
    BISUP_EXPECTS(rows > 0 && cols > 0);
    BISUP_EXPECTS(scales_.empty() || scales_.size() == static_cast<std::size_t>(rows));
    const NarrowView shape = view();
    const auto panel_size = static_cast<std::size_t>(pairs_) * NarrowView::pair_size;
    codes_.resize(static_cast<std::size_t>(shape.panels()) * panel_size);
    if (!scales_.empty())
      scales_.resize(static_cast<std::size_t>(shape.panels() * panel16::tile_rows));
    std::int8_t* at = codes_.data();
    for (int p = 0; p < shape.panels(); ++p) {
      for (int c = 0; c < 2 * pairs_; c += 2) {
        for (int r = p * panel16::tile_rows; r < (p + 1) * panel16::tile_rows; ++r) {
          for (int i = c; i < c + 2; ++i, ++at)
            if (r < rows && i < cols) *at = static_cast<std::int8_t>(code(r, i));
        }
      }
    }
  }
  // Whether packed weights have what these hold: symmetric codes of 8 bits, one scale a row.
  [[nodiscard]] static bool holds(const PackedShape& shape) noexcept {
    return shape.format.bits == 8 && !shape.format.affine() && shape.groups() == 1;
  }
  // The same numbers. Requires holds(weights.shape).
  [[nodiscard]] static NarrowPanels of(const PackedPanels& weights) {
    const PackedShape& shape = weights.shape;
    BISUP_EXPECTS(holds(shape));
    std::vector<float> scales;
    for (int r = 0; r < shape.rows; ++r) scales.push_back(weights.scale(r, 0));
    const auto code = [&](int r, int c) {
      return load_code<8, panel16>(weights.codes + shape.tile_offset(r, c), r % panel16::tile_rows,
                                   c % panel16::tile_codes) -
             weights.zero(r, 0);
    };
    return NarrowPanels(shape.rows, shape.cols, code, std::move(scales));
  }

  [[nodiscard]] NarrowView view() const noexcept {
    return {codes_.data(), scales_.empty() ? nullptr : scales_.data(), rows_, pairs_};
  }

 private:
  int rows_, pairs_;
  std::vector<std::int8_t> codes_;
  std::vector<float> scales_;
};

}  // namespace bisup
