// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What are lanes in NEON? Eight, two registers, so that every sum has the order that it has in
// AVX2: the words that the loops of kernel/lanes/ are written in, and how rows that end inside the
// registers are read and written.

#include <bisup/core/platform.hpp>

#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::neon {

struct Floats {
  float32x4_t low, high;
};
struct Ints {
  int32x4_t low, high;
};
struct Mask {  // all ones or zero
  uint32x4_t low, high;
};
inline constexpr int lane_count = 8;
inline constexpr int register_count = 16;  // of two each

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats splat(float x) noexcept {
  return {vdupq_n_f32(x), vdupq_n_f32(x)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints splat(std::int32_t x) noexcept {
  return {vdupq_n_s32(x), vdupq_n_s32(x)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats add(Floats a, Floats b) noexcept {
  return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints add(Ints a, Ints b) noexcept {
  return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats subtract(Floats a, Floats b) noexcept {
  return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints subtract(Ints a, Ints b) noexcept {
  return {vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats multiply(Floats a, Floats b) noexcept {
  return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats divide(Floats a, Floats b) noexcept {
  return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}
// a b + c, rounded once; c - a b; a b - c.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats subtract_product(Floats a, Floats b, Floats c) noexcept {
  return {vfmsq_f32(c.low, a.low, b.low), vfmsq_f32(c.high, a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) noexcept {
  return multiply_add(a, b, {vnegq_f32(c.low), vnegq_f32(c.high)});
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats magnitude(Floats x) noexcept {
  return {vabsq_f32(x.low), vabsq_f32(x.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float square_root(float x) noexcept {
  return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0);
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask both(Mask a, Mask b) noexcept {
  return {vandq_u32(a.low, b.low), vandq_u32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask less(Floats a, Floats b) noexcept {
  return {vcltq_f32(a.low, b.low), vcltq_f32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask at_most(Floats a, Floats b) noexcept {
  return {vcleq_f32(a.low, b.low), vcleq_f32(a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask less(Ints a, Ints b) noexcept {
  return {vcltq_s32(a.low, b.low), vcltq_s32(a.high, b.high)};
}
// a where the mask is set, elsewhere b.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats select(Mask mask, Floats a, Floats b) noexcept {
  return {vbslq_f32(mask.low, a.low, b.low), vbslq_f32(mask.high, a.high, b.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats keep(Mask mask, Floats a) noexcept {  // elsewhere zero, NaN or not
  return select(mask, a, splat(0.0f));
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints keep(Mask mask, Ints a) noexcept {
  return {vandq_s32(a.low, vreinterpretq_s32_u32(mask.low)),
          vandq_s32(a.high, vreinterpretq_s32_u32(mask.high))};
}
// a + b and a b + c where the mask is set, elsewhere a and c.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats add_where(Mask mask, Floats a, Floats b) noexcept {
  return add(a, keep(mask, b));
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats multiply_add_where(Mask mask, Floats a, Floats b, Floats c) noexcept {
  return multiply_add(keep(mask, a), keep(mask, b), c);
}
// The second of the two where one is NaN, as on x86; NEON's own would return the NaN.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats larger(Floats a, Floats b) noexcept {
  return select(less(b, a), a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats smaller(Floats a, Floats b) noexcept {
  return select(less(a, b), a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats larger_where(Mask mask, Floats a, Floats b) noexcept {  // elsewhere a
  return larger(a, select(mask, b, a));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats rounded(Floats x) noexcept {  // to the nearest, even where two are
  return {vrndnq_f32(x.low), vrndnq_f32(x.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints to_ints(Floats x) noexcept {  // the same
  return {vcvtnq_s32_f32(x.low), vcvtnq_s32_f32(x.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats to_floats(Ints x) noexcept {
  return {vcvtq_f32_s32(x.low), vcvtq_f32_s32(x.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats bits_as_floats(Ints x) noexcept {
  return {vreinterpretq_f32_s32(x.low), vreinterpretq_f32_s32(x.high)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints bits_as_ints(Floats x) noexcept {
  return {vreinterpretq_s32_f32(x.low), vreinterpretq_s32_f32(x.high)};
}
// x times two to the n, for whole n. One factor 2^n could not reach subnormal results.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats two_to(Ints n) noexcept {
  const Ints biased = add(n, splat(127));
  return bits_as_floats({vshlq_n_s32(biased.low, 23), vshlq_n_s32(biased.high, 23)});
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats times_two_to(Floats x, Floats n) noexcept {
  const Ints whole = to_ints(n), half = {vshrq_n_s32(whole.low, 1), vshrq_n_s32(whole.high, 1)};
  return multiply(multiply(x, two_to(half)), two_to(subtract(whole, half)));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints lane_numbers() noexcept {
  constexpr std::int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
  return {vld1q_s32(numbers), vld1q_s32(numbers + 4)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask first_lanes(int count) noexcept {
  return less(lane_numbers(), splat(count));
}
// Those whose bits are set, the first in the lowest.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Mask lanes_of(std::uint64_t bits) noexcept {
  constexpr std::uint32_t bit[] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint32x4_t all = vdupq_n_u32(static_cast<std::uint32_t>(bits));
  return {vtstq_u32(all, vld1q_u32(bit)), vtstq_u32(all, vld1q_u32(bit + 4))};
}

// The same where 2^n is a normal number.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats times_normal_two_to(Floats x, Floats n) noexcept {
  return multiply(x, two_to(to_ints(n)));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats load(const float* from) noexcept {
  return {vld1q_f32(from), vld1q_f32(from + 4)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store(float* to, Floats v) noexcept {
  vst1q_f32(to, v.low), vst1q_f32(to + 4, v.high);
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints load(const std::int32_t* from) noexcept {
  return {vld1q_s32(from), vld1q_s32(from + 4)};
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store(std::int32_t* to, Ints v) noexcept {
  vst1q_s32(to, v.low), vst1q_s32(to + 4, v.high);
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints load_bytes(const std::uint8_t* from) noexcept {
  const uint16x8_t words = vmovl_u8(vld1_u8(from));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))),
          vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(words)))};
}
// The first `count` lanes, of 0 to 255, as bytes.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store_bytes(std::uint8_t* to, Ints v, int count) noexcept {
  std::uint8_t bytes[8];
  vst1_u8(bytes, vqmovun_s16(vcombine_s16(vmovn_s32(v.low), vmovn_s32(v.high))));
  std::memcpy(to, bytes, static_cast<std::size_t>(count < 8 ? count : 8));
}
// 32 numbers of -128 to 127 as bytes.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store_bytes(std::int8_t* to, const Ints (&v)[4]) noexcept {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    vst1_s8(to + 8 * i, vmovn_s16(vcombine_s16(vmovn_s32(v[i].low), vmovn_s32(v[i].high))));
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats widen_halves(uint16x8_t bits) noexcept {
  if constexpr (Type == DType::f16) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(bits))),
            vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(bits)))};
  } else {
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
            vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(bits), 16))};
  }
}

// The first `count` (at most 8) elements from `at` on as floats, then zeros; reads no others.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats load_floats(const void* data, std::ptrdiff_t at, int count) noexcept {
  if constexpr (Type == DType::f32) {
    const float* from = static_cast<const float*>(data) + at;
    if (count >= 8) return load(from);
    float padded[8] = {};
    for (int i = 0; i < count; ++i) padded[i] = from[i];
    return load(padded);
  } else if constexpr (Type == DType::i8) {
    const std::int8_t* from = static_cast<const std::int8_t*>(data) + at;
    std::int8_t codes[8] = {};
    std::memcpy(codes, from, static_cast<std::size_t>(count >= 8 ? 8 : count));
    const int16x8_t words = vmovl_s8(vld1_s8(codes));
    return to_floats(Ints{vmovl_s16(vget_low_s16(words)), vmovl_s16(vget_high_s16(words))});
  } else {
    const std::uint16_t* from = static_cast<const std::uint16_t*>(data) + at;
    if (count >= 8) return widen_halves<Type>(vld1q_u16(from));
    std::uint16_t padded[8] = {};
    for (int i = 0; i < count; ++i) padded[i] = from[i];
    return widen_halves<Type>(vld1q_u16(padded));
  }
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats load_row(const float* x, int at, int count) noexcept {
  return load_floats<DType::f32>(x, at, count - at);
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store_first(float* to, Floats v, int count) noexcept {
  if (count >= 8) return store(to, v);
  float32x4_t rest = v.low;
  if (count & 4) vst1q_f32(to, rest), rest = v.high, to += 4;
  float32x2_t two = vget_low_f32(rest);
  if (count & 2) vst1_f32(to, two), two = vget_high_f32(rest), to += 2;
  if (count & 1) vst1_lane_f32(to, two, 0);
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float first_lane(Floats v) noexcept {
  return vgetq_lane_f32(v.low, 0);
}
// The sum of 8 lanes in a fixed order.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float sum_lanes(Floats v) noexcept {
  const float32x4_t four = vaddq_f32(v.low, v.high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(vpadd_f32(two, two), 0);
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE std::int32_t sum_lanes(Ints v) noexcept {
  return vaddvq_s32(vaddq_s32(v.low, v.high));
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float smallest_lane(Floats v) noexcept {
  float lanes[8];
  store(lanes, v);
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lanes[i] = lanes[i] < lanes[i + half] ? lanes[i] : lanes[i + half];
    }
  }
  return lanes[0];
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float largest_lane(Floats v) noexcept {
  float lanes[8];
  store(lanes, v);
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    }
  }
  return lanes[0];
}

// The Walsh-Hadamard matrix of as many rows as there are lanes, without a scale.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float32x4_t hadamard_of_four(float32x4_t x) noexcept {
  const float32x4_t even = vtrn1q_f32(x, x), odd = vtrn2q_f32(x, x);  // 0 0 2 2, 1 1 3 3
  x = vtrn1q_f32(vaddq_f32(even, odd), vsubq_f32(even, odd));
  const float32x4_t first = vcombine_f32(vget_low_f32(x), vget_low_f32(x));
  const float32x4_t second = vcombine_f32(vget_high_f32(x), vget_high_f32(x));
  return vcombine_f32(vget_low_f32(vaddq_f32(first, second)),
                      vget_low_f32(vsubq_f32(first, second)));
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats hadamard_of_lanes(Floats x) noexcept {
  x = {hadamard_of_four(x.low), hadamard_of_four(x.high)};
  return {vaddq_f32(x.low, x.high), vsubq_f32(x.low, x.high)};
}

// So many registers as there are lanes, rows for columns.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void transpose(float32x4_t& a, float32x4_t& b, float32x4_t& c,
                                   float32x4_t& d) noexcept {
  const float32x4_t ab_even = vtrn1q_f32(a, b), ab_odd = vtrn2q_f32(a, b);
  const float32x4_t cd_even = vtrn1q_f32(c, d), cd_odd = vtrn2q_f32(c, d);
  a = vcombine_f32(vget_low_f32(ab_even), vget_low_f32(cd_even));
  b = vcombine_f32(vget_low_f32(ab_odd), vget_low_f32(cd_odd));
  c = vcombine_f32(vget_high_f32(ab_even), vget_high_f32(cd_even));
  d = vcombine_f32(vget_high_f32(ab_odd), vget_high_f32(cd_odd));
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void transpose(Floats (&a)[8]) noexcept {
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    transpose(a[i].low, a[i + 1].low, a[i + 2].low, a[i + 3].low);
    transpose(a[i].high, a[i + 1].high, a[i + 2].high, a[i + 3].high);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float32x4_t from = a[i].high;
    a[i].high = a[4 + i].low, a[4 + i].low = from;
  }
}

}  // namespace bisup::neon
#endif
