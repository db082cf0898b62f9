// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are keys and values rounded to codes and read back? To the bit as kernel/scalar_attention.hpp
// says. Included by each_target.hpp.
// Limit: reading them back, the stores: four bytes for every code.
// Registers: one panel's scales and zero points, and one of codes.
// Nothing else was tried.

#include <cstddef>
#include <cstdint>

#include <bisup/kernel/scalar_attention.hpp>

namespace bisup::BISUP_LANES {

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline Extremes extremes(const float* x, int count) noexcept {
  Floats low = splat(0.0f), high = low;
  for (int i = 0; i < count; i += lane_count) {
    const Floats v = load_row(x, i, count);
    low = smaller(v, low), high = larger(v, high);
  }
  return {smallest_lane(low), largest_lane(high)};
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void round_group(const float* x, int count, const KvRounding& r,
                                        std::uint8_t* codes) noexcept {
  const Floats inverse = splat(r.inverse), low = splat(r.low), high = splat(r.high);
  const Ints zero = splat(r.zero);
  for (int i = 0; i < count; i += lane_count) {
    const Floats level = rounded(multiply(load_row(x, i, count), inverse));
    store_bytes(codes + i, add(to_ints(smaller(larger(level, low), high)), zero), count - i);
  }
}

// The specification adds up 16 lanes; here they are so many registers.
inline constexpr int kv_sums = 16 / lane_count;

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE float joined(const Floats (&sums)[kv_sums]) noexcept {
  float lanes[16];
#pragma GCC unroll 2
  for (int i = 0; i < kv_sums; ++i) store(lanes + lane_count * i, sums[i]);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline RoundingSums rounding_sums(const float* x, int count, float scale,
                                                  const KvRounding& r) noexcept {
  const Floats inverse = splat(r.inverse), low = splat(r.low), high = splat(r.high),
               step = splat(scale);
  Floats error[kv_sums], square[kv_sums], product[kv_sums];
#pragma GCC unroll 2
  for (int i = 0; i < kv_sums; ++i) error[i] = square[i] = product[i] = splat(0.0f);
  for (int i = 0; i < count; i += lane_count) {
    const Floats v = load_row(x, i, count);
    const Floats level = smaller(larger(rounded(multiply(v, inverse)), low), high);
    const Floats off = subtract_product(step, level, v);
    const int part = i / lane_count % kv_sums;
    error[part] = multiply_add_where(first_lanes(count - i), off, off, error[part]);
    square[part] = multiply_add(v, v, square[part]);
    product[part] = multiply_add(v, multiply(step, level), product[part]);
  }
  return {joined(error), joined(square), joined(product)};
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED void widen(const void* from, int count, float* out) noexcept {
  for (int i = 0; i < count; i += lane_count)
    store_first(out + i, load_floats<Type>(from, i, count - i), count - i);
}

// Four dims of a part's keys: the bytes of each lane are one key's codes. Scales and zero points
// (from 2^23 on) are those of the tokens, or of one channel after the other.
template <int Bits, int Step, bool Channels>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void dequantize_step(const std::uint8_t* tile, Floats scale, Floats zero, const float* scales,
                         const float* zeros, const float* center, float* out) noexcept {
  const Ints codes = unpack<Bits, Step>(tile);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    constexpr int first = 4 * Step;
    if constexpr (Channels) scale = splat(scales[first + c]), zero = splat(zeros[first + c]);
    const Floats level = subtract(above_two23(codes, c), zero);
    store(out + (first + c) * kv_panel, multiply_add(scale, level, splat(center[first + c])));
  }
}

// Zero points behind 2^23, as above_two23() has codes.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE Floats raised_zeros(const std::uint8_t* zeros) noexcept {
  return bits_as_floats(add(load_bytes(zeros), splat(two23)));
}

template <int Bits, bool Channels>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void dequantize_tiles(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                          const float* center, const KvPanel& panel, float* out) noexcept {
  for (int d = 0; d < panel.dim(); d += panel16::tile_codes) {
    for (int part = 0; part < panel_parts; ++part) {
      const auto at =
          static_cast<std::size_t>(Channels ? d : d / panel.group() * kv_panel + part * lane_count);
      alignas(64) float h[panel16::tile_codes], z[panel16::tile_codes];
      const Floats scale = load_scales(scales, Scale::f16, at), zero = raised_zeros(zeros + at);
      if constexpr (Channels) {
        for (std::size_t i = 0; i < panel16::tile_codes; i += lane_count) {
          store(h + i, load_scales(scales, Scale::f16, at + i));
          store(z + i, raised_zeros(zeros + at + i));
        }
      }
      const std::uint8_t* tile = codes + part * part_bytes;
      float* into = out + part * lane_count;
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
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED
    void dequantize_keys(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                         const float* center, const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, false>(codes, scales, zeros, center, panel, out);
}
template <int Bits>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED void dequantize_channel_keys(const std::uint8_t* codes, const Half* scales,
                                             const std::uint8_t* zeros, const float* center,
                                             const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, true>(codes, scales, zeros, center, panel, out);
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED
    void dequantize_values(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                           const KvPanel& panel, float* out) noexcept {
  const int group = panel.group(), dim = panel.dim();
  for (int g = 0; g < panel.groups(); ++g, scales += kv_panel, zeros += kv_panel) {
    alignas(64) float scale[kv_panel];
    for (std::size_t i = 0; i < kv_panel; i += lane_count)
      store(scale + i, load_scales(scales, Scale::f16, i));
    const int begin = g * group, end = begin + group < dim ? begin + group : dim;
    for (int t = 0; t < kv_panel; ++t) {
      const Floats s = splat(scale[t]);
      const Ints z = splat(std::int32_t{zeros[t]});
      const std::uint8_t* row = codes + static_cast<std::ptrdiff_t>(t) * panel.token_bytes();
      for (int d = begin; d < end; d += lane_count) {
        const Ints code = subtract(row_codes<Bits>(row + d * Bits / 8), z);
        store(out + static_cast<std::ptrdiff_t>(t) * dim + d, multiply(s, to_floats(code)));
      }
    }
  }
}

}  // namespace bisup::BISUP_LANES
