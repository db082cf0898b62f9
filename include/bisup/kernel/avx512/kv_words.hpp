// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do cached keys and values, and queries, become words for integer products in AVX-512? The
// layouts are those of kernel/attention_tile.hpp.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <bisup/kernel/attention_tile.hpp>
#include <bisup/kernel/avx512/kv_codes.hpp>
#include <bisup/kernel/avx512/unpack.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// Four dims of 16 keys.
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void key_words_step(const std::uint8_t* tile, __m512i zero, std::int16_t* out) noexcept {
  const __m512i codes = unpack<Bits, Step>(tile);
  const __m512i even = _mm512_and_si512(codes, _mm512_set1_epi16(0xff));  // dims 0 and 2
  const __m512i odd = _mm512_srli_epi16(codes, 8);                        // 1 and 3
  _mm512_storeu_si512(out + Step * 64, _mm512_sub_epi16(even, zero));
  _mm512_storeu_si512(out + Step * 64 + 32, _mm512_sub_epi16(odd, zero));
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED void key_words(const std::uint8_t* codes, const std::uint8_t* zeros,
                               const KvPanel& panel, std::int16_t* out) noexcept {
  for (int d = 0; d < panel.dim(); d += panel16::tile_codes) {
    const __m512i of_token = load_zeros(zeros + d / panel.group() * kv_panel);
    const __m512i zero = _mm512_or_si512(of_token, _mm512_slli_epi32(of_token, 16));
    key_words_step<Bits, 0>(codes, zero, out);
    key_words_step<Bits, 1>(codes, zero, out);
    key_words_step<Bits, 2>(codes, zero, out);
    key_words_step<Bits, 3>(codes, zero, out);
    key_words_step<Bits, 4>(codes, zero, out);
    key_words_step<Bits, 5>(codes, zero, out);
    key_words_step<Bits, 6>(codes, zero, out);
    key_words_step<Bits, 7>(codes, zero, out);
    codes += tile_bytes<panel16, Bits>, out += panel16::tile_codes * kv_panel;
  }
}

// Two tokens side by side, up to 64 dims of one group, a multiple of 32. With 2 and 4 bits a word
// of 16 bits holds eight or four dims: it is copied to each of them and shifted.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void two_rows(const std::uint8_t* a, const std::uint8_t* b, int dims,
                                  __m512i zero, std::int16_t* out) noexcept {
  if constexpr (Bits == 2 || Bits == 4) {
    constexpr int held = 16 / Bits, row = 64 / held;  // dims of a word, words of 64 dims
    alignas(64) static constexpr auto lanes = [] {
      struct {
        std::int16_t word[4][32], shift[32];
      } all{};
      for (int i = 0; i < 64; ++i) {
        for (int token = 0; token < 2; ++token)
          all.word[i / 16][i % 16 * 2 + token] = static_cast<std::int16_t>(row * token + i / held);
      }
      for (int i = 0; i < 32; ++i) all.shift[i] = static_cast<std::int16_t>(i / 2 % held * Bits);
      return all;
    }();
    const auto present = static_cast<__mmask16>((1u << (dims / held)) - 1);
    __m512i both;
    if constexpr (Bits == 4) {
      both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(present, a)),
                                _mm256_maskz_loadu_epi16(present, b), 1);
    } else {
      const auto eight = static_cast<__mmask8>(present);
      both = _mm512_castsi256_si512(
          _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_maskz_loadu_epi16(eight, a)),
                                  _mm_maskz_loadu_epi16(eight, b), 1));
    }
    const __m512i shift = _mm512_load_si512(lanes.shift), mask = _mm512_set1_epi16((1 << Bits) - 1);
    for (int v = 0; v < dims / 16; ++v) {
      const __m512i spread =
          _mm512_maskz_permutexvar_epi16(0xffffffffu, _mm512_load_si512(lanes.word[v]), both);
      const __m512i codes = _mm512_and_si512(_mm512_srlv_epi16(spread, shift), mask);
      _mm512_storeu_si512(out + v * 32, _mm512_sub_epi16(codes, zero));
    }
  } else {
    for (int d = 0; d < dims; d += 16) {
      const __m512i codes =
          _mm512_or_si512(sixteen_codes<Bits>(a + d * Bits / 8),
                          _mm512_slli_epi32(sixteen_codes<Bits>(b + d * Bits / 8), 16));
      _mm512_storeu_si512(out + 2 * d, _mm512_sub_epi16(codes, zero));
    }
  }
}

template <int Bits, int Dims>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void value_columns(const std::uint8_t* codes, std::ptrdiff_t row_bytes,
                       const std::uint8_t* zeros, int dim, std::int16_t* out) noexcept {
  for (int t = 0; t < kv_panel; t += 2, codes += 2 * row_bytes, out += 2 * dim) {
    two_rows<Bits>(codes, codes + row_bytes, Dims, _mm512_set1_epi32(zeros[t] | zeros[t + 1] << 16),
                   out);
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED void value_words(const std::uint8_t* codes, const std::uint8_t* zeros,
                                 const KvPanel& panel, std::int16_t* out) noexcept {
  const int group = panel.group(), dim = panel.dim(), row_bytes = panel.token_bytes();
  for (int begin = 0; begin < dim; begin += group, zeros += kv_panel) {
    const int end = std::min(begin + group, dim);
    int d = begin;
    for (; d + 64 <= end; d += 64)
      value_columns<Bits, 64>(codes + d * Bits / 8, row_bytes, zeros, dim, out + 2 * d);
    if (d < end) value_columns<Bits, 32>(codes + d * Bits / 8, row_bytes, zeros, dim, out + 2 * d);
  }
}

// Magnitudes are ordered as integers, and NaN is above all.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i magnitude_bits(__m512 x) noexcept {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float largest_magnitude(__m512i bits) noexcept {
  return std::bit_cast<float>(_mm512_reduce_max_epi32(bits));
}

// One row of queries, [dim]: words, their scale, and the product with the center. What is not
// finite makes the scale so.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void query_words(const float* row, const float* center, int dim,
                                        std::int16_t* words, float* scale,
                                        float* with_center) noexcept {
  __m512i largest = _mm512_setzero_si512();
  __m512 sum = _mm512_setzero_ps();
  for (int d = 0; d < dim; d += 16) {
    const __m512 x = _mm512_loadu_ps(row + d);
    largest = _mm512_max_epi32(largest, magnitude_bits(x));
    sum = _mm512_fmadd_ps(x, _mm512_loadu_ps(center + d), sum);
  }
  const float magnitude = largest_magnitude(largest);
  *scale = magnitude / word_levels, *with_center = sum_lanes(sum);
  const __m512 inverse = _mm512_set1_ps(magnitude > 0 ? word_levels / magnitude : 0.0f);
  for (int d = 0; d < dim; d += 16) {
    const __m256i of_dims =
        _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(row + d), inverse)));
    constexpr int first_third_second_fourth = 0xd8;
    const __m256i of_pairs = _mm256_shufflehi_epi16(
        _mm256_shufflelo_epi16(of_dims, first_third_second_fourth), first_third_second_fourth);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + d), of_pairs);
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
