// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 multiply by a matrix of signs? All 16 signed sums of four rows go into a table, so
// that each sum of four is one addition: k / 4 + 4 of them a value instead of k.
// Limit: the load ports, five loads for four additions. A rotation of 512 rows takes
// 2 copies of the same memory at 12 * 128, 2.7 at 44 * 128, 9 at 344 * 32.
// Registers: 2 rows x 4 sums.
// Tried and lost: a table of 8 groups: 13 % slower at 344, as sums pass through memory more often.
// Not tried: k multiply-adds by 1 and -1, four times the arithmetic.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/avx2/lanes.hpp>

namespace bisup::avx2 {

namespace sign_table {
inline constexpr int strip = 32;   // columns
inline constexpr int groups = 16;  // of four rows: the table is 32 KiB
}  // namespace sign_table

// The 16 signed sums of `left` columns of four rows, bit i of the index the sign of row i.
// [16, strip]
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void fill_table(const float* x, std::ptrdiff_t width, int left,
                                    float* table) noexcept {
  const __m256 zero = _mm256_setzero_ps();
  const __m256 a = load_floats<DType::f32>(x, 0, left);
  const __m256 b = load_floats<DType::f32>(x, width, left);
  const __m256 c = load_floats<DType::f32>(x, 2 * width, left);
  const __m256 d = load_floats<DType::f32>(x, 3 * width, left);
  const __m256 ab = _mm256_add_ps(a, b), a_b = _mm256_sub_ps(a, b);
  const __m256 cd = _mm256_add_ps(c, d), c_d = _mm256_sub_ps(c, d);
  const __m256 low[4] = {ab, _mm256_sub_ps(b, a), a_b, _mm256_sub_ps(zero, ab)};
  const __m256 high[4] = {cd, _mm256_sub_ps(d, c), c_d, _mm256_sub_ps(zero, cd)};
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    _mm256_store_ps(table + i * sign_table::strip, _mm256_add_ps(low[i % 4], high[i / 4]));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void sign_product(float* x, int k, const std::uint8_t* signs, int width,
                                         float scale, float* scratch) noexcept {
  using namespace sign_table;
  alignas(64) float table[groups * 16 * strip];
  const std::ptrdiff_t stride = width;
  const int all_groups = k / 4;
  const __m256 factor = _mm256_set1_ps(scale);
  for (int col = 0; col < width; col += strip) {
    const int used = std::min(strip, width - col);
    for (int first = 0; first < all_groups; first += groups) {
      const int count = std::min(groups, all_groups - first);
      for (int g = 0; g < count; ++g) {
        const float* from = x + 4 * (first + g) * stride + col;
        for (int i = 0; i < strip; i += 8) {
          fill_table(i < used ? from + i : from, stride, used - i, table + g * 16 * strip + i);
        }
      }
      const bool last = first + count == all_groups;  // then no row of x is needed any more
      for (int row = 0; row < k; row += 2) {
        __m256 sum[2][4];
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            sum[r][i] = first == 0 ? _mm256_setzero_ps()
                                   : _mm256_loadu_ps(scratch + (row + r) * strip + 8 * i);
          }
        }
        const std::uint8_t* bits = signs + static_cast<std::ptrdiff_t>(row) * all_groups + first;
        const float* sums = table;
        for (int g = 0; g < count; ++g, sums += 16 * strip) {
#pragma GCC unroll 2
          for (int r = 0; r < 2; ++r) {
            const float* of_four = sums + bits[r * all_groups + g] * strip;
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
              sum[r][i] = _mm256_add_ps(sum[r][i], _mm256_load_ps(of_four + 8 * i));
            }
          }
        }
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
          float* to = x + (row + r) * stride + col;
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            if (!last) {
              _mm256_storeu_ps(scratch + (row + r) * strip + 8 * i, sum[r][i]);
            } else if (8 * i < used) {
              store_first(to + 8 * i, _mm256_mul_ps(sum[r][i], factor), used - 8 * i);
            }
          }
        }
      }
    }
  }
}

}  // namespace bisup::avx2
#endif
