// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do few columns beside packed weights add to a product? The scalar form is the specification.

#include <algorithm>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/narrow_panels.hpp>
#include <bisup/pack/word_rows.hpp>

namespace bisup {

using NarrowGemmFn = void (*)(const NarrowView&, const WordsView&, MatrixRef<float>,
                              GemmRange) noexcept;

namespace scalar {

// y[t, r] += s_w s_x sum over c of code[r, c] word[t, c]; the sum is a 32-bit integer.
BISUP_SCALAR inline void narrow_gemm(const NarrowView& w, const WordsView& x, MatrixRef<float> y,
                                     GemmRange range) noexcept {
  const int last_row = std::min(range.last_panel * panel16::tile_rows, w.rows);
  for (int t = range.first_token; t < range.last_token; ++t) {
    for (int r = range.first_panel * panel16::tile_rows; r < last_row; ++r) {
      const std::int8_t* const codes = w.panel(r / panel16::tile_rows) + r % panel16::tile_rows * 2;
      std::int32_t dot = 0;
      for (int i = 0; i < w.pairs; ++i) {
        const std::int8_t* const pair = codes + i * static_cast<int>(NarrowView::pair_size);
        dot += pair[0] * x.row(t)[2 * i] + pair[1] * x.row(t)[2 * i + 1];
      }
      y(t, r) += w.scale(r) * x.scales[t] * static_cast<float>(dot);
    }
  }
}

}  // namespace scalar
}  // namespace bisup
