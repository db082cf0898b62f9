// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON round rows to words and multiply them by few rows of codes? Eight columns at a
// time, widened once for two tokens. Limit: for one token three instructions for 8 columns.
// Registers: 16 sums, 2 of words, 1 of codes.

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/word_rows.hpp>

namespace bisup::neon {

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats times_factors(const float* x, const float* factors, int at,
                                         int cols) noexcept {
  const Floats v = load_floats<DType::f32>(x, at, cols - at);
  return factors == nullptr ? v : multiply(v, load_floats<DType::f32>(factors, at, cols - at));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline float round_words(const float* x, const float* factors, int cols, int levels,
                                         std::int16_t* words) noexcept {
  uint32x4_t largest = vdupq_n_u32(0);
  for (int c = 0; c < cols; c += 8) {
    const Floats v = times_factors(x, factors, c, cols);
    largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(v.low)));
    largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(v.high)));
  }
  const WordRounding rounding =
      WordRounding::of(static_cast<std::int32_t>(vmaxvq_u32(largest)), levels);
  for (int c = 0; c < cols; c += 8) {
    Ints eight = to_ints(multiply(times_factors(x, factors, c, cols), splat(rounding.inverse)));
    if (rounding.inverse == 0) eight = splat(0);
    const int16x8_t packed = vcombine_s16(vmovn_s32(eight.low), vmovn_s32(eight.high));
    if (cols - c >= 8) {
      vst1q_s16(words + c, packed);
    } else {
      std::memcpy(words + c, &packed, static_cast<std::size_t>(cols - c) * sizeof *words);
    }
  }
  return rounding.scale;
}

// The first `count` of 8 elements, then zeros; reads no others.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE int16x8_t load_words(const std::int16_t* from, int count) noexcept {
  if (count >= 8) return vld1q_s16(from);
  std::int16_t padded[8] = {};
  std::memcpy(padded, from, static_cast<std::size_t>(count) * sizeof *from);
  return vld1q_s16(padded);
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE int16x8_t load_codes(const std::int8_t* from, int count) noexcept {
  if (count >= 8) return vmovl_s8(vld1_s8(from));
  std::int8_t padded[8] = {};
  std::memcpy(padded, from, static_cast<std::size_t>(count));
  return vmovl_s8(vld1_s8(padded));
}

template <int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void code_dots_tile(const CodeDots& d, int row, int token) noexcept {
  const std::int8_t* const codes = d.codes + row * d.stride;
  const std::int16_t* const words = d.words + token * d.word_stride;
  float* const y = d.y + token * d.y_stride + row;
  for (int first = 0; first < d.cols; first += code_dot_block) {
    const int last = std::min(d.cols, first + code_dot_block);
    Ints sum[Rows][Tokens];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) sum[r][t] = splat(0);
    }
    for (int c = first; c < last; c += 8) {
      int16x8_t b[Tokens];
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) b[t] = load_words(words + t * d.word_stride + c, last - c);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const int16x8_t u = load_codes(codes + r * d.stride + c, last - c);
#pragma GCC unroll 2
        for (int t = 0; t < Tokens; ++t) {
          sum[r][t].low = vmlal_s16(sum[r][t].low, vget_low_s16(u), vget_low_s16(b[t]));
          sum[r][t].high = vmlal_s16(sum[r][t].high, vget_high_s16(u), vget_high_s16(b[t]));
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int t = 0; t < Tokens; ++t) {
        const float dot = d.scales[token + t] * sum_lanes(to_floats(sum[r][t]));
        float& to = y[t * d.y_stride + r];
        to = first == 0 ? dot : to + dot;
      }
    }
  }
}

template <int Rows>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void code_dots_rows(const CodeDots& d, int row) noexcept {
  int t = 0;
  for (; t + 2 <= d.tokens; t += 2) code_dots_tile<Rows, 2>(d, row, t);
  if (t < d.tokens) code_dots_tile<Rows, 1>(d, row, t);
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void code_dots(const CodeDots& d) noexcept {
  int r = 0;
  for (; r + 4 <= d.rows; r += 4) code_dots_rows<4>(d, r);
  for (; r < d.rows; ++r) code_dots_rows<1>(d, r);
}

}  // namespace bisup::neon
#endif
