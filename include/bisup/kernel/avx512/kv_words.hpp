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
#include <bisup/kernel/avx512/unpack.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// Four dims of 16 keys.
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void key_words_step(const LoadedTile<Bits>& tile, __m512i zero, std::int16_t* out) noexcept {
  const __m512i codes = unpack<Bits, Step>(tile);
  const __m512i even = _mm512_and_si512(codes, _mm512_set1_epi16(0xff));  // dims 0 and 2
  const __m512i odd = _mm512_srli_epi16(codes, 8);                        // 1 and 3
  _mm512_storeu_si512(out + Step * 64, _mm512_sub_epi16(even, zero));
  _mm512_storeu_si512(out + Step * 64 + 32, _mm512_sub_epi16(odd, zero));
}

// 32 dims.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void key_words_tile(const LoadedTile<Bits>& tile, const std::uint8_t* zeros,
                                        std::int16_t* out) noexcept {
  const __m512i of_token = load_bytes(zeros);
  const __m512i zero = _mm512_or_si512(of_token, _mm512_slli_epi32(of_token, 16));
  key_words_step<Bits, 0>(tile, zero, out);
  key_words_step<Bits, 1>(tile, zero, out);
  key_words_step<Bits, 2>(tile, zero, out);
  key_words_step<Bits, 3>(tile, zero, out);
  key_words_step<Bits, 4>(tile, zero, out);
  key_words_step<Bits, 5>(tile, zero, out);
  key_words_step<Bits, 6>(tile, zero, out);
  key_words_step<Bits, 7>(tile, zero, out);
}

// Codes are loaded, of two tiles, before any word is stored: a load waits for a store before it
// whose address ends in the same 12 bits, and there is always one among those of a panel's words.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED void key_words(const std::uint8_t* codes, const std::uint8_t* zeros,
                               const KvPanel& panel, std::int16_t* out) noexcept {
  constexpr int dims = panel16::tile_codes, words = dims * kv_panel;
  constexpr std::size_t bytes = tile_bytes<panel16, Bits>;
  const int dim = panel.dim(), group = panel.group();
  int d = 0;
  for (; d + 2 * dims <= dim; d += 2 * dims, codes += 2 * bytes, out += 2 * words) {
    const LoadedTile<Bits> first(codes), second(codes + bytes);
    key_words_tile<Bits>(first, zeros + d / group * kv_panel, out);
    key_words_tile<Bits>(second, zeros + (d + dims) / group * kv_panel, out + words);
  }
  if (d < dim) key_words_tile<Bits>(LoadedTile<Bits>(codes), zeros + d / group * kv_panel, out);
}

// Dims dims, 32 or 64, of 16 tokens, two tokens side by side. With 2 and 4 bits a word of 16 bits
// holds eight or four dims: it is copied to each of them and shifted. Codes are loaded before
// words are stored, as above.
template <int Bits, int Dims>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE
    void value_columns(const std::uint8_t* codes, std::ptrdiff_t row_bytes,
                       const std::uint8_t* zeros, int dim, std::int16_t* out) noexcept {
  constexpr int pairs = kv_panel / 2;
  if constexpr (Bits == 8) {
    constexpr auto present = (std::uint64_t{1} << (Dims - 1)) * 2 - 1;
    // Four dims of every sixteen into each quarter, where interleaving leaves them in their order.
    const __m512i quarters = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    __m512i row[kv_panel];
#pragma GCC unroll 16
    for (int t = 0; t < kv_panel; ++t)
      row[t] = _mm512_maskz_loadu_epi8(present, codes + t * row_bytes);
#pragma GCC unroll 8
    for (int t = 0; t < kv_panel; t += 2, out += 2 * dim) {
      const __m512i zero = _mm512_set1_epi32(zeros[t] | zeros[t + 1] << 16);
      const __m512i a = _mm512_maskz_permutexvar_epi32(0xffff, quarters, row[t]);
      const __m512i b = _mm512_maskz_permutexvar_epi32(0xffff, quarters, row[t + 1]);
      const __m512i nothing = _mm512_setzero_si512();
      const __m512i both[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
#pragma GCC unroll 2
      for (int half = 0; half < Dims / 32; ++half) {
        const __m512i low = _mm512_unpacklo_epi8(both[half], nothing);
        const __m512i high = _mm512_unpackhi_epi8(both[half], nothing);
        _mm512_storeu_si512(out + half * 64, _mm512_sub_epi16(low, zero));
        _mm512_storeu_si512(out + half * 64 + 32, _mm512_sub_epi16(high, zero));
      }
    }
  } else if constexpr (Bits == 2 || Bits == 4) {
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
    constexpr auto present = static_cast<__mmask16>((1u << (Dims / held)) - 1);
    __m512i both[pairs];
#pragma GCC unroll 8
    for (int pair = 0; pair < pairs; ++pair, codes += 2 * row_bytes) {
      if constexpr (Bits == 4) {
        both[pair] =
            _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(present, codes)),
                               _mm256_maskz_loadu_epi16(present, codes + row_bytes), 1);
      } else {
        constexpr auto eight = static_cast<__mmask8>(present);
        both[pair] = _mm512_castsi256_si512(
            _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_maskz_loadu_epi16(eight, codes)),
                                    _mm_maskz_loadu_epi16(eight, codes + row_bytes), 1));
      }
    }
    const __m512i shift = _mm512_load_si512(lanes.shift), mask = _mm512_set1_epi16((1 << Bits) - 1);
#pragma GCC unroll 8
    for (int pair = 0; pair < pairs; ++pair, out += 2 * dim, zeros += 2) {
      const __m512i zero = _mm512_set1_epi32(zeros[0] | zeros[1] << 16);
#pragma GCC unroll 4
      for (int v = 0; v < Dims / 16; ++v) {
        const __m512i spread = _mm512_maskz_permutexvar_epi16(
            0xffffffffu, _mm512_load_si512(lanes.word[v]), both[pair]);
        const __m512i words = _mm512_and_si512(_mm512_srlv_epi16(spread, shift), mask);
        _mm512_storeu_si512(out + v * 32, _mm512_sub_epi16(words, zero));
      }
    }
  } else {
    for (int pair = 0; pair < pairs; ++pair, codes += 2 * row_bytes, out += 2 * dim, zeros += 2) {
      const __m512i zero = _mm512_set1_epi32(zeros[0] | zeros[1] << 16);
      __m512i words[Dims / 16];
#pragma GCC unroll 4
      for (int v = 0; v < Dims / 16; ++v) {
        const std::uint8_t* at = codes + v * 16 * Bits / 8;
        words[v] = _mm512_or_si512(row_codes<Bits>(at),
                                   _mm512_slli_epi32(row_codes<Bits>(at + row_bytes), 16));
      }
#pragma GCC unroll 4
      for (int v = 0; v < Dims / 16; ++v)
        _mm512_storeu_si512(out + v * 32, _mm512_sub_epi16(words[v], zero));
    }
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
