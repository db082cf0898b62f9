// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 round keys and values to codes and read them back? To the bit as
// kernel/scalar_attention.hpp says.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/avx512/unpack.hpp>
#include <bisup/kernel/scalar_attention.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline Extremes extremes(const float* x, int count) noexcept {
  __m512 low = _mm512_setzero_ps(), high = low;
  for (int i = 0; i < count; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(count - i), x + i);
    low = _mm512_min_ps(v, low), high = _mm512_max_ps(v, high);
  }
  return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)};
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void round_group(const float* x, int count, const KvRounding& r,
                                        std::uint8_t* codes) noexcept {
  const __m512 inverse = _mm512_set1_ps(r.inverse), low = _mm512_set1_ps(r.low),
               high = _mm512_set1_ps(r.high);
  const __m512i zero = _mm512_set1_epi32(r.zero);
  for (int i = 0; i < count; i += 16) {
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(first_lanes(count - i), x + i), inverse);
    const __m512 level = _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i code = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(level, low), high));
    _mm_mask_storeu_epi8(codes + i, first_lanes(count - i),
                         _mm512_cvtepi32_epi8(_mm512_add_epi32(code, zero)));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float joined(__m512 sum) noexcept {
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, sum);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline RoundingSums rounding_sums(const float* x, int count, float scale,
                                                  const KvRounding& r) noexcept {
  const __m512 inverse = _mm512_set1_ps(r.inverse), low = _mm512_set1_ps(r.low),
               high = _mm512_set1_ps(r.high), step = _mm512_set1_ps(scale);
  __m512 error = _mm512_setzero_ps(), square = error, product = error;
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512 rounded = _mm512_roundscale_ps(_mm512_mul_ps(v, inverse),
                                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 level = _mm512_min_ps(_mm512_max_ps(rounded, low), high);
    const __m512 off = _mm512_fnmadd_ps(step, level, v);
    error = _mm512_mask3_fmadd_ps(off, off, error, mask);
    square = _mm512_fmadd_ps(v, v, square);
    product = _mm512_fmadd_ps(v, _mm512_mul_ps(step, level), product);
  }
  return {joined(error), joined(square), joined(product)};
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED void widen(const void* from, int count, float* out) noexcept {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    _mm512_mask_storeu_ps(out + i, mask, load_floats<Type>(from, i, mask));
  }
}

// Four dims of 16 keys: the bytes of each 32-bit lane are one key's codes. Scales and zero points
// are those of the 16 tokens, or of one channel after the other.
template <int Bits, int Step, bool Channels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void dequantize_step(const std::uint8_t* tile, __m512 scale, __m512i zero, const float* scales,
                         const std::uint8_t* zeros, const float* center, float* out) noexcept {
  const __m512i codes = unpack<Bits, Step>(tile), byte = _mm512_set1_epi32(0xff);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    constexpr int first = 4 * Step;
    if constexpr (Channels) {
      scale = _mm512_set1_ps(scales[first + c]);
      zero = _mm512_set1_epi32(zeros[first + c]);
    }
    const __m512i code =
        _mm512_and_si512(_mm512_srli_epi32(codes, static_cast<unsigned>(8 * c)), byte);
    const __m512 level = _mm512_cvtepi32_ps(_mm512_sub_epi32(code, zero));
    _mm512_storeu_ps(out + (first + c) * kv_panel,
                     _mm512_fmadd_ps(scale, level, _mm512_set1_ps(center[first + c])));
  }
}

template <int Bits, bool Channels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void dequantize_tiles(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                          const float* center, const KvPanel& panel, float* out) noexcept {
  for (int d = 0; d < panel.dim(); d += panel16::tile_codes) {
    const auto at = static_cast<std::size_t>(Channels ? d : d / panel.group() * kv_panel);
    const std::uint8_t* z = zeros + at;
    alignas(64) float h[panel16::tile_codes];
    const __m512 scale = load_scales(scales, Scale::f16, at);
    if constexpr (Channels) {
      _mm512_store_ps(h, scale);
      _mm512_store_ps(h + 16, load_scales(scales, Scale::f16, at + 16));
    }
    const __m512i zero = load_zeros(z);
    dequantize_step<Bits, 0, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 1, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 2, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 3, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 4, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 5, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 6, Channels>(codes, scale, zero, h, z, center, out);
    dequantize_step<Bits, 7, Channels>(codes, scale, zero, h, z, center, out);
    codes += tile_bytes<panel16, Bits>, out += panel16::tile_codes * kv_panel;
    center += panel16::tile_codes;
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED
    void dequantize_keys(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                         const float* center, const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, false>(codes, scales, zeros, center, panel, out);
}
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED void dequantize_channel_keys(const std::uint8_t* codes, const Half* scales,
                                             const std::uint8_t* zeros, const float* center,
                                             const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, true>(codes, scales, zeros, center, panel, out);
}

// 16 consecutive codes of a row. Eight codes fill whole bytes, so two 32-bit words hold them; the
// second word may read two bytes past the row, which the cache leaves room for.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i sixteen_codes(const std::uint8_t* bytes) noexcept {
  if constexpr (Bits == 8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  } else {
    static_assert(Bits <= 4);
    std::int32_t low, high;
    std::memcpy(&low, bytes, 4), std::memcpy(&high, bytes + Bits, 4);
    const __m512i words = _mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xff00, high);
    const __m512i shifts =
        _mm512_set_epi32(7 * Bits, 6 * Bits, 5 * Bits, 4 * Bits, 3 * Bits, 2 * Bits, Bits, 0,
                         7 * Bits, 6 * Bits, 5 * Bits, 4 * Bits, 3 * Bits, 2 * Bits, Bits, 0);
    return _mm512_and_si512(_mm512_srlv_epi32(words, shifts), _mm512_set1_epi32((1 << Bits) - 1));
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED
    void dequantize_values(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                           const KvPanel& panel, float* out) noexcept {
  const int group = panel.group(), dim = panel.dim();
  for (int g = 0; g < panel.groups(); ++g, scales += kv_panel, zeros += kv_panel) {
    alignas(64) float scale[kv_panel];
    _mm512_store_ps(scale, load_scales(scales, Scale::f16, 0));
    const int begin = g * group, end = begin + group < dim ? begin + group : dim;
    for (int t = 0; t < kv_panel; ++t) {
      const __m512 s = _mm512_set1_ps(scale[t]);
      const __m512i z = _mm512_set1_epi32(zeros[t]);
      const std::uint8_t* row = codes + static_cast<std::ptrdiff_t>(t) * panel.token_bytes();
      for (int d = begin; d < end; d += 16) {
        const __m512i code = _mm512_sub_epi32(sixteen_codes<Bits>(row + d * Bits / 8), z);
        _mm512_storeu_ps(out + static_cast<std::ptrdiff_t>(t) * dim + d,
                         _mm512_mul_ps(s, _mm512_cvtepi32_ps(code)));
      }
    }
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
