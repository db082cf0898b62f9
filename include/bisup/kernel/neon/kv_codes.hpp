// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON round keys and values to codes and read them back? To the bit as
// kernel/scalar_attention.hpp says.

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/kernel/neon/unpack.hpp>
#include <bisup/kernel/scalar_attention.hpp>

namespace bisup::neon {

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline Extremes extremes(const float* x, int count) noexcept {
  Floats low = splat(0.0f), high = low;
  for (int i = 0; i < count; i += 8) {
    const Floats v = load_row(x, i, count);
    low = smaller(v, low), high = larger(v, high);
  }
  alignas(32) float lows[8], highs[8];
  store(lows, low), store(highs, high);
  Extremes e;
  for (int i = 0; i < 8; ++i) {
    e.low = lows[i] < e.low ? lows[i] : e.low;
    e.high = highs[i] > e.high ? highs[i] : e.high;
  }
  return e;
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline void round_group(const float* x, int count, const KvRounding& r,
                                        std::uint8_t* codes) noexcept {
  const Floats inverse = splat(r.inverse), low = splat(r.low), high = splat(r.high);
  const Ints zero = splat(r.zero);
  for (int i = 0; i < count; i += 8) {
    const Floats v = multiply(load_row(x, i, count), inverse);
    const Floats level = rounded(v);
    const Ints code = add(to_ints(smaller(larger(level, low), high)), zero);
    std::uint8_t bytes[8];
    vst1_u8(bytes, vqmovun_s16(vcombine_s16(vmovn_s32(code.low), vmovn_s32(code.high))));
    std::memcpy(codes + i, bytes, static_cast<std::size_t>(count - i < 8 ? count - i : 8));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float joined(Floats low, Floats high) noexcept {
  float lanes[16];
  store(lanes, low), store(lanes + 8, high);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED inline RoundingSums rounding_sums(const float* x, int count, float scale,
                                                  const KvRounding& r) noexcept {
  const Floats inverse = splat(r.inverse), low = splat(r.low), high = splat(r.high),
               step = splat(scale);
  Floats error[2] = {splat(0.0f), splat(0.0f)};
  Floats square[2] = {error[0], error[0]}, product[2] = {error[0], error[0]};
  for (int i = 0; i < count; i += 8) {
    const Floats v = load_row(x, i, count);
    const Floats nearest = rounded(multiply(v, inverse));
    const Floats level = smaller(larger(nearest, low), high);
    const Floats off = keep(first_lanes(count - i), subtract_product(step, level, v));
    const int half = i / 8 % 2;
    error[half] = multiply_add(off, off, error[half]);
    square[half] = multiply_add(v, v, square[half]);
    product[half] = multiply_add(v, multiply(step, level), product[half]);
  }
  return {joined(error[0], error[1]), joined(square[0], square[1]), joined(product[0], product[1])};
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED void widen(const void* from, int count, float* out) noexcept {
  for (int i = 0; i < count; i += 8)
    store_first(out + i, load_floats<Type>(from, i, count - i), count - i);
}

// Four dims of 8 keys: the bytes of each 32-bit lane are one key's codes. Scales and zero points
// are those of the 8 tokens, or of one channel after the other.
template <int Bits, int Step, bool Channels>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE
    void dequantize_step(const std::uint8_t* tile, Floats scale, Ints zero, const float* scales,
                         const std::uint8_t* zeros, const float* center, float* out) noexcept {
  const Ints codes = unpack_half<Bits, Step>(tile);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    constexpr int first = 4 * Step;
    if constexpr (Channels) {
      scale = splat(scales[first + c]);
      zero = splat(zeros[first + c]);
    }
    const Ints code = byte_of(codes, c);
    const Floats level = to_floats(subtract(code, zero));
    store(out + (first + c) * kv_panel, multiply_add(scale, level, splat(center[first + c])));
  }
}

template <int Bits, bool Channels>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE
    void dequantize_tiles(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                          const float* center, const KvPanel& panel, float* out) noexcept {
  for (int d = 0; d < panel.dim(); d += panel16::tile_codes) {
    for (int half = 0; half < 2; ++half) {
      const auto at =
          static_cast<std::size_t>(Channels ? d : d / panel.group() * kv_panel + half * half_rows);
      const std::uint8_t* z = zeros + at;
      alignas(32) float h[panel16::tile_codes];
      const Floats scale = load_scales(scales, Scale::f16, at);
      if constexpr (Channels) {
        for (std::size_t i = 0; i < panel16::tile_codes; i += 8)
          store(h + i, load_scales(scales, Scale::f16, at + i));
      }
      const Ints zero = load_zeros(z);
      const std::uint8_t* tile = codes + half * half_bytes;
      float* into = out + half * half_rows;
      dequantize_step<Bits, 0, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 1, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 2, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 3, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 4, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 5, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 6, Channels>(tile, scale, zero, h, z, center, into);
      dequantize_step<Bits, 7, Channels>(tile, scale, zero, h, z, center, into);
    }
    codes += tile_bytes<panel16, Bits>, out += panel16::tile_codes * kv_panel;
    center += panel16::tile_codes;
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED
    void dequantize_keys(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                         const float* center, const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, false>(codes, scales, zeros, center, panel, out);
}
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED void dequantize_channel_keys(const std::uint8_t* codes, const Half* scales,
                                             const std::uint8_t* zeros, const float* center,
                                             const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, true>(codes, scales, zeros, center, panel, out);
}

// 8 consecutive codes of a row, which fill whole bytes. Reading a 32-bit word may pass the row's
// end by two bytes, which the cache leaves room for.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints eight_codes(const std::uint8_t* bytes) noexcept {
  if constexpr (Bits == 8) {
    return load_bytes(bytes);
  } else {
    static_assert(Bits <= 4);
    std::uint32_t word;
    std::memcpy(&word, bytes, 4);
    constexpr std::int32_t left[] = {0,         -Bits,     -2 * Bits, -3 * Bits,
                                     -4 * Bits, -5 * Bits, -6 * Bits, -7 * Bits};
    const uint32x4_t all = vdupq_n_u32(word), mask = vdupq_n_u32((1u << Bits) - 1);
    return {vreinterpretq_s32_u32(vandq_u32(vshlq_u32(all, vld1q_s32(left)), mask)),
            vreinterpretq_s32_u32(vandq_u32(vshlq_u32(all, vld1q_s32(left + 4)), mask))};
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_OPTIMIZED
    void dequantize_values(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                           const KvPanel& panel, float* out) noexcept {
  const int group = panel.group(), dim = panel.dim();
  for (int g = 0; g < panel.groups(); ++g, scales += kv_panel, zeros += kv_panel) {
    alignas(32) float scale[kv_panel];
    store(scale, load_scales(scales, Scale::f16, 0));
    store(scale + 8, load_scales(scales, Scale::f16, 8));
    const int begin = g * group, end = begin + group < dim ? begin + group : dim;
    for (int t = 0; t < kv_panel; ++t) {
      const Floats s = splat(scale[t]);
      const Ints z = splat(zeros[t]);
      const std::uint8_t* row = codes + static_cast<std::ptrdiff_t>(t) * panel.token_bytes();
      for (int d = begin; d < end; d += 8) {
        const Ints code = subtract(eight_codes<Bits>(row + d * Bits / 8), z);
        store(out + static_cast<std::ptrdiff_t>(t) * dim + d, multiply(s, to_floats(code)));
      }
    }
  }
}

}  // namespace bisup::neon
#endif
