// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 round keys and values to codes and read them back? To the bit as
// kernel/scalar_attention.hpp says.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/scalar_attention.hpp>

namespace bisup::avx2 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline Extremes extremes(const float* x, int count) noexcept {
  __m256 low = _mm256_setzero_ps(), high = low;
  for (int i = 0; i < count; i += 8) {
    const __m256 v = _mm256_maskload_ps(x + i, first_lanes(count - i));
    low = _mm256_min_ps(v, low), high = _mm256_max_ps(v, high);
  }
  alignas(32) float lows[8], highs[8];
  _mm256_store_ps(lows, low), _mm256_store_ps(highs, high);
  Extremes e;
  for (int i = 0; i < 8; ++i) {
    e.low = lows[i] < e.low ? lows[i] : e.low;
    e.high = highs[i] > e.high ? highs[i] : e.high;
  }
  return e;
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline void round_group(const float* x, int count, const KvRounding& r,
                                        std::uint8_t* codes) noexcept {
  const __m256 inverse = _mm256_set1_ps(r.inverse), low = _mm256_set1_ps(r.low),
               high = _mm256_set1_ps(r.high);
  const __m256i zero = _mm256_set1_epi32(r.zero);
  for (int i = 0; i < count; i += 8) {
    const __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, first_lanes(count - i)), inverse);
    const __m256 level = _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i code =
        _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(level, low), high)), zero);
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    alignas(8) std::uint8_t bytes[8];
    _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(words, words));
    std::memcpy(codes + i, bytes, static_cast<std::size_t>(count - i < 8 ? count - i : 8));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float joined(__m256 low, __m256 high) noexcept {
  alignas(32) float lanes[16];
  _mm256_store_ps(lanes, low), _mm256_store_ps(lanes + 8, high);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline RoundingSums rounding_sums(const float* x, int count, float scale,
                                                  const KvRounding& r) noexcept {
  const __m256 inverse = _mm256_set1_ps(r.inverse), low = _mm256_set1_ps(r.low),
               high = _mm256_set1_ps(r.high), step = _mm256_set1_ps(scale);
  __m256 error[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  __m256 square[2] = {error[0], error[0]}, product[2] = {error[0], error[0]};
  for (int i = 0; i < count; i += 8) {
    const __m256i mask = first_lanes(count - i);
    const __m256 v = _mm256_maskload_ps(x + i, mask);
    const __m256 rounded =
        _mm256_round_ps(_mm256_mul_ps(v, inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 level = _mm256_min_ps(_mm256_max_ps(rounded, low), high);
    const __m256 off = _mm256_and_ps(_mm256_fnmadd_ps(step, level, v), _mm256_castsi256_ps(mask));
    const int half = i / 8 % 2;
    error[half] = _mm256_fmadd_ps(off, off, error[half]);
    square[half] = _mm256_fmadd_ps(v, v, square[half]);
    product[half] = _mm256_fmadd_ps(v, _mm256_mul_ps(step, level), product[half]);
  }
  return {joined(error[0], error[1]), joined(square[0], square[1]), joined(product[0], product[1])};
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED void widen(const void* from, int count, float* out) noexcept {
  for (int i = 0; i < count; i += 8)
    store_first(out + i, load_floats<Type>(from, i, count - i), count - i);
}

// Four dims of 8 keys: the bytes of each 32-bit lane are one key's codes. Scales and zero points
// are those of the 8 tokens, or of one channel after the other.
template <int Bits, int Step, bool Channels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void dequantize_step(const std::uint8_t* tile, __m256 scale, __m256i zero, const float* scales,
                         const std::uint8_t* zeros, const float* center, float* out) noexcept {
  const __m256i codes = unpack<Bits, Step>(tile), byte = _mm256_set1_epi32(0xff);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    constexpr int first = 4 * Step;
    if constexpr (Channels) {
      scale = _mm256_set1_ps(scales[first + c]);
      zero = _mm256_set1_epi32(zeros[first + c]);
    }
    const __m256i code = _mm256_and_si256(_mm256_srli_epi32(codes, 8 * c), byte);
    const __m256 level = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero));
    _mm256_storeu_ps(out + (first + c) * kv_panel,
                     _mm256_fmadd_ps(scale, level, _mm256_set1_ps(center[first + c])));
  }
}

template <int Bits, bool Channels>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE
    void dequantize_tiles(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                          const float* center, const KvPanel& panel, float* out) noexcept {
  for (int d = 0; d < panel.dim(); d += panel16::tile_codes) {
    for (int half = 0; half < 2; ++half) {
      const auto at =
          static_cast<std::size_t>(Channels ? d : d / panel.group() * kv_panel + half * half_rows);
      const std::uint8_t* z = zeros + at;
      alignas(32) float h[panel16::tile_codes];
      const __m256 scale = load_scales(scales, Scale::f16, at);
      if constexpr (Channels) {
        for (std::size_t i = 0; i < panel16::tile_codes; i += 8)
          _mm256_store_ps(h + i, load_scales(scales, Scale::f16, at + i));
      }
      const __m256i zero = load_zeros(z);
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
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED
    void dequantize_keys(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                         const float* center, const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, false>(codes, scales, zeros, center, panel, out);
}
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED void dequantize_channel_keys(const std::uint8_t* codes, const Half* scales,
                                             const std::uint8_t* zeros, const float* center,
                                             const KvPanel& panel, float* out) noexcept {
  dequantize_tiles<Bits, true>(codes, scales, zeros, center, panel, out);
}

// 8 consecutive codes of a row, which fill whole bytes. Reading a 32-bit word may pass the row's
// end by two bytes, which the cache leaves room for.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i eight_codes(const std::uint8_t* bytes) noexcept {
  if constexpr (Bits == 8) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  } else {
    static_assert(Bits <= 4);
    std::int32_t word;
    std::memcpy(&word, bytes, 4);
    const __m256i shifts =
        _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts),
                            _mm256_set1_epi32((1 << Bits) - 1));
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED
    void dequantize_values(const std::uint8_t* codes, const Half* scales, const std::uint8_t* zeros,
                           const KvPanel& panel, float* out) noexcept {
  const int group = panel.group(), dim = panel.dim();
  for (int g = 0; g < panel.groups(); ++g, scales += kv_panel, zeros += kv_panel) {
    alignas(32) float scale[kv_panel];
    _mm256_store_ps(scale, load_scales(scales, Scale::f16, 0));
    _mm256_store_ps(scale + 8, load_scales(scales, Scale::f16, 8));
    const int begin = g * group, end = begin + group < dim ? begin + group : dim;
    for (int t = 0; t < kv_panel; ++t) {
      const __m256 s = _mm256_set1_ps(scale[t]);
      const __m256i z = _mm256_set1_epi32(zeros[t]);
      const std::uint8_t* row = codes + static_cast<std::ptrdiff_t>(t) * panel.token_bytes();
      for (int d = begin; d < end; d += 8) {
        const __m256i code = _mm256_sub_epi32(eight_codes<Bits>(row + d * Bits / 8), z);
        _mm256_storeu_ps(out + static_cast<std::ptrdiff_t>(t) * dim + d,
                         _mm256_mul_ps(s, _mm256_cvtepi32_ps(code)));
      }
    }
  }
}

}  // namespace bisup::avx2
#endif
