// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do few columns lie that stand beside packed weights of many, as keeper channels and the
// second factor of a low-rank branch do? As signed codes of 8 bits in panels of 16 rows, two
// columns side by side, which is what multiplying words in pairs reads. Their activations are
// words.

#include <algorithm>
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
      : NarrowPanels(rows, cols, std::move(scales)) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) pair(r, c)[c % 2] = static_cast<std::int8_t>(code(r, c));
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
    NarrowPanels made(shape.rows, shape.cols, std::move(scales));
    const int zero = weights.zero(0, 0);  // of all, being symmetric
    // A code of 8 bits is the byte where its lowest bit lies, and rows are as far apart everywhere:
    // load_code's way, bit by bit, took four fifths of the time in which a model loads.
    for (int first = 0; first < shape.rows; first += panel16::tile_rows) {
      const int rows = std::min(panel16::tile_rows, shape.rows - first);
      for (int c = 0; c < shape.cols; ++c) {
        const auto lowest = [c](int row) {
          return panel16::at<8>(row, c % panel16::tile_codes, 0).byte;
        };
        const int apart = lowest(1) - lowest(0);
        const std::uint8_t* from = weights.codes + shape.tile_offset(first, c) + lowest(0);
        std::int8_t* to = made.pair(first, c) + c % 2;
        for (int r = 0; r < rows; ++r, from += apart, to += 2)
          *to = static_cast<std::int8_t>(*from - zero);
      }
    }
    return made;
  }

  [[nodiscard]] NarrowView view() const noexcept {
    return {codes_.data(), scales_.empty() ? nullptr : scales_.data(), rows_, pairs_};
  }

 private:
  NarrowPanels(int rows, int cols, std::vector<float> scales)
      : rows_(rows), pairs_((cols + 1) / 2), scales_(std::move(scales)) {
    BISUP_EXPECTS(rows > 0 && cols > 0);
    BISUP_EXPECTS(scales_.empty() || scales_.size() == static_cast<std::size_t>(rows));
    const auto panels = static_cast<std::size_t>(view().panels());
    codes_.resize(panels * static_cast<std::size_t>(pairs_) * NarrowView::pair_size);
    if (!scales_.empty()) scales_.resize(panels * panel16::tile_rows);
  }
  // Where the pair of columns lies that column `col` is of.
  [[nodiscard]] std::int8_t* pair(int row, int col) {
    const auto panel = static_cast<std::size_t>(row / panel16::tile_rows),
               index = panel * static_cast<std::size_t>(pairs_) + static_cast<std::size_t>(col / 2);
    return codes_.data() + index * NarrowView::pair_size + row % panel16::tile_rows * 2;
  }

  int rows_, pairs_;
  std::vector<std::int8_t> codes_;
  std::vector<float> scales_;
};

}  // namespace bisup
