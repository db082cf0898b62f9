// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 multiply by a matrix of signs? All 16 signed sums of four rows go into a table,
// so that each sum of four is one addition: k / 4 + 4 of them a value instead of k.
// Limit: the load ports, three loads for two additions. A rotation of 512 rows takes
// 1.3 copies of the same memory at 12 * 128, 1.8 at 44 * 128, 7 at 344 * 32.
// Registers: 4 rows x 2 sums.
// Tried and lost: a table of 8 groups: 13 % slower at 344, as sums pass through memory more often.
// Not tried: k multiply-adds by 1 and -1, four times the arithmetic.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/avx512/lanes.hpp>

namespace bisup::avx512 {

namespace sign_table {
inline constexpr int strip = 32;   // columns
inline constexpr int groups = 16;  // of four rows: the table is 32 KiB
}  // namespace sign_table

// The 16 signed sums of four rows, bit i of the index the sign of row i. [16, strip]
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void fill_table(const float* x, std::ptrdiff_t width, __mmask16 mask,
                                    float* table) noexcept {
  const __m512 zero = _mm512_setzero_ps();
  const __m512 a = _mm512_maskz_loadu_ps(mask, x), b = _mm512_maskz_loadu_ps(mask, x + width);
  const __m512 c = _mm512_maskz_loadu_ps(mask, x + 2 * width);
  const __m512 d = _mm512_maskz_loadu_ps(mask, x + 3 * width);
  const __m512 ab = _mm512_add_ps(a, b), a_b = _mm512_sub_ps(a, b);
  const __m512 cd = _mm512_add_ps(c, d), c_d = _mm512_sub_ps(c, d);
  const __m512 low[4] = {ab, _mm512_sub_ps(b, a), a_b, _mm512_sub_ps(zero, ab)};
  const __m512 high[4] = {cd, _mm512_sub_ps(d, c), c_d, _mm512_sub_ps(zero, cd)};
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    _mm512_store_ps(table + i * sign_table::strip, _mm512_add_ps(low[i % 4], high[i / 4]));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void sign_product(float* x, int k, const std::uint8_t* signs, int width,
                                         float scale, float* scratch) noexcept {
  using namespace sign_table;
  alignas(64) float table[groups * 16 * strip];
  const std::ptrdiff_t stride = width;
  const int all_groups = k / 4;
  const __m512 factor = _mm512_set1_ps(scale);
  for (int col = 0; col < width; col += strip) {
    const __mmask16 left = first_lanes(width - col), right = first_lanes(width - col - 16);
    for (int first = 0; first < all_groups; first += groups) {
      const int count = std::min(groups, all_groups - first);
      for (int g = 0; g < count; ++g) {
        const float* from = x + 4 * (first + g) * stride + col;
        fill_table(from, stride, left, table + g * 16 * strip);
        fill_table(right ? from + 16 : from, stride, right, table + g * 16 * strip + 16);
      }
      const bool last = first + count == all_groups;  // then no row of x is needed any more
      for (int row = 0; row < k; row += 4) {
        __m512 sum[4][2];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
          const float* before = scratch + (row + r) * strip;
          sum[r][0] = first == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(before);
          sum[r][1] = first == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(before + 16);
        }
        const std::uint8_t* bits = signs + static_cast<std::ptrdiff_t>(row) * all_groups + first;
        const float* sums = table;
        for (int g = 0; g < count; ++g, sums += 16 * strip) {
#pragma GCC unroll 4
          for (int r = 0; r < 4; ++r) {
            const float* of_four = sums + bits[r * all_groups + g] * strip;
            sum[r][0] = _mm512_add_ps(sum[r][0], _mm512_load_ps(of_four));
            sum[r][1] = _mm512_add_ps(sum[r][1], _mm512_load_ps(of_four + 16));
          }
        }
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
          if (last) {
            float* to = x + (row + r) * stride + col;
            _mm512_mask_storeu_ps(to, left, _mm512_mul_ps(sum[r][0], factor));
            _mm512_mask_storeu_ps(right ? to + 16 : to, right, _mm512_mul_ps(sum[r][1], factor));
          } else {
            _mm512_storeu_ps(scratch + (row + r) * strip, sum[r][0]);
            _mm512_storeu_ps(scratch + (row + r) * strip + 16, sum[r][1]);
          }
        }
      }
    }
  }
}

}  // namespace bisup::avx512
#endif
