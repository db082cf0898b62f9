// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How is multiplied by a matrix of signs? All 16 signed sums of four rows go into a table, so that
// each sum of four is one addition: k / 4 + 4 of them a value instead of k. Included by
// each_target.hpp. Limit: the load ports: three loads for two additions on AVX-512, five for four
// on AVX2, nine for eight on NEON. A rotation of 512 rows takes on AVX-512 (AVX2) 1.3 (2) copies of
// the same memory at 12 * 128, 1.8 (2.7) at 44 * 128, 7 (9) at 344 * 32. Registers: 8 sums (on NEON
// 16): 4 rows of 2 or 2 rows of 4. Tried and lost: a table of 8 groups: 13 % slower at 344, as sums
// pass through memory more often. Not tried: k multiply-adds by 1 and -1, four times the
// arithmetic.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bisup::BISUP_LANES {

namespace sign_table {
inline constexpr int strip = 32;   // columns
inline constexpr int groups = 16;  // of four rows: the table is 32 KiB
inline constexpr int rows = lane_count / 4, registers = strip / lane_count;  // of sums at once
}  // namespace sign_table

// The 16 signed sums of `left` columns of four rows, bit i of the index the sign of row i.
// [16, strip]
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void fill_table(const float* x, std::ptrdiff_t width, int left,
                                    float* table) noexcept {
  const Floats zero = splat(0.0f);
  const Floats a = load_floats<DType::f32>(x, 0, left);
  const Floats b = load_floats<DType::f32>(x, width, left);
  const Floats c = load_floats<DType::f32>(x, 2 * width, left);
  const Floats d = load_floats<DType::f32>(x, 3 * width, left);
  const Floats ab = add(a, b), a_b = subtract(a, b);
  const Floats cd = add(c, d), c_d = subtract(c, d);
  const Floats low[4] = {ab, subtract(b, a), a_b, subtract(zero, ab)};
  const Floats high[4] = {cd, subtract(d, c), c_d, subtract(zero, cd)};
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    store(table + i * sign_table::strip, add(low[i % 4], high[i / 4]));
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void sign_product(float* x, int k, const std::uint8_t* signs, int width,
                                         float scale, float* scratch) noexcept {
  using namespace sign_table;
  alignas(64) float table[groups * 16 * strip];
  const std::ptrdiff_t stride = width;
  const int all_groups = k / 4;
  const Floats factor = splat(scale);
  for (int col = 0; col < width; col += strip) {
    const int used = std::min(strip, width - col);
    for (int first = 0; first < all_groups; first += groups) {
      const int count = std::min(groups, all_groups - first);
      for (int g = 0; g < count; ++g) {
        const float* from = x + 4 * (first + g) * stride + col;
#pragma GCC unroll 4
        for (int i = 0; i < strip; i += lane_count) {
          fill_table(i < used ? from + i : from, stride, used - i, table + g * 16 * strip + i);
        }
      }
      const bool last = first + count == all_groups;  // then no row of x is needed any more
      for (int row = 0; row < k; row += rows) {
        Floats sum[rows][registers];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
          for (int i = 0; i < registers; ++i) {
            sum[r][i] =
                first == 0 ? splat(0.0f) : load(scratch + (row + r) * strip + lane_count * i);
          }
        }
        const std::uint8_t* bits = signs + static_cast<std::ptrdiff_t>(row) * all_groups + first;
        const float* sums = table;
        for (int g = 0; g < count; ++g, sums += 16 * strip) {
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) {
            const float* of_four = sums + bits[r * all_groups + g] * strip;
#pragma GCC unroll 4
            for (int i = 0; i < registers; ++i) {
              sum[r][i] = add(sum[r][i], load(of_four + lane_count * i));
            }
          }
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          float* to = x + (row + r) * stride + col;
#pragma GCC unroll 4
          for (int i = 0; i < registers; ++i) {
            if (!last) {
              store(scratch + (row + r) * strip + lane_count * i, sum[r][i]);
            } else if (lane_count * i < used) {
              store_first(to + lane_count * i, multiply(sum[r][i], factor), used - lane_count * i);
            }
          }
        }
      }
    }
  }
}

}  // namespace bisup::BISUP_LANES
