// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON add what few columns beside packed weights make? A pair of columns of 4 rows is
// widened, multiplied, and summed in pairs.
// Limit: six instructions a pair of columns, token and half panel, of which one is shared by
// tokens. Registers: 2 Tokens sums, 2 codes, 1 broadcast, 2 products.

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/narrow_gemm.hpp>
#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/neon/unpack.hpp>

namespace bisup::neon {

// Tokens tokens by the half panel from `row` on.
template <int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void narrow_tile(const NarrowView& w, const WordsView& x, MatrixRef<float> y,
                                     int row, int token) noexcept {
  const std::int8_t* codes = w.panel(row / panel16::tile_rows) + row % panel16::tile_rows * 2;
  Ints dot[Tokens];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) dot[t] = splat(0);
  const std::int16_t* words = x.row(token);
  for (int i = 0; i < w.pairs; ++i, words += 2, codes += NarrowView::pair_size) {
    const int8x16_t u = vld1q_s8(codes);
    const int16x8_t low = vmovl_s8(vget_low_s8(u)), high = vmovl_s8(vget_high_s8(u));
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      std::int32_t pair;
      std::memcpy(&pair, words + static_cast<std::ptrdiff_t>(t) * 2 * x.pairs, sizeof pair);
      const int16x4_t b = vreinterpret_s16_s32(vdup_n_s32(pair));
      const auto both = [&](int16x8_t four) {
        return vpaddq_s32(vmull_s16(vget_low_s16(four), b), vmull_s16(vget_high_s16(four), b));
      };
      dot[t] = {vaddq_s32(dot[t].low, both(low)), vaddq_s32(dot[t].high, both(high))};
    }
  }
  const int rows = w.rows - row;
  const Floats scale =
      w.scales == nullptr ? splat(1.0f) : load_floats<DType::f32>(w.scales, row, 8);
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    float* const at = y.data() + (token + t) * y.stride() + row;
    const Floats both = multiply(scale, splat(x.scales[token + t]));
    store_first(at, multiply_add(to_floats(dot[t]), both, load_floats<DType::f32>(at, 0, rows)),
                rows);
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void narrow_gemm(const NarrowView& w, const WordsView& x, MatrixRef<float> y,
                                        GemmRange range) noexcept {
  const int last = range.last_panel * panel16::tile_rows;
  for (int row = range.first_panel * panel16::tile_rows; row < last && row < w.rows;
       row += lane_count) {
    int token = range.first_token;
    for (; token + 4 <= range.last_token; token += 4) narrow_tile<4>(w, x, y, row, token);
    for (; token < range.last_token; ++token) narrow_tile<1>(w, x, y, row, token);
  }
}

}  // namespace bisup::neon
#endif
