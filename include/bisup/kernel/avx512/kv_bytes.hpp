// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do cached keys and values, and queries, become the bytes that AVX-512 multiplies four at a
// time? The layouts are those of kernel/attention_tile.hpp.

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/kernel/attention_tile.hpp>
#include <bisup/kernel/avx512/unpack.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// Steps [Step, 8) of a tile: four dims of 16 keys each.
template <int Bits, int Step = 0>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store_steps(const LoadedTile<Bits>& tile, std::uint8_t* out) noexcept {
  if constexpr (Step < panel16::steps) {
    _mm512_storeu_si512(out + Step * panel16::vector_bytes, unpack<Bits, Step>(tile));
    store_steps<Bits, Step + 1>(tile, out);
  }
}

// Codes are loaded, of two tiles, before any byte is stored: a load waits for a store before it
// whose address ends in the same 12 bits, and there is often one among those of a panel's bytes.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED
    void key_bytes(const std::uint8_t* codes, const KvPanel& panel, std::uint8_t* out) noexcept {
  constexpr int dims = panel16::tile_codes, bytes = dims * kv_panel;
  constexpr std::size_t stored = tile_bytes<panel16, Bits>;
  int d = 0;
  for (; d + 2 * dims <= panel.dim(); d += 2 * dims, codes += 2 * stored, out += 2 * bytes) {
    const LoadedTile<Bits> first(codes), second(codes + stored);
    store_steps<Bits>(first, out);
    store_steps<Bits>(second, out + bytes);
  }
  if (d < panel.dim()) store_steps<Bits>(LoadedTile<Bits>(codes), out);
}

// One token's codes of 32 or 64 dims, those bytes first in each quarter of a register that become
// its quarter of the result: of dims 16 i + 4 quarter ... + 3, i = 0 ... 3.
template <int Bits, int Dims>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i token_quarters(const std::uint8_t* row) noexcept {
  if constexpr (Bits == 8) {
    constexpr auto present = (std::uint64_t{1} << (Dims - 1)) * 2 - 1;
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_maskz_permutexvar_epi32(0xffff, order, _mm512_maskz_loadu_epi8(present, row));
  } else if constexpr (Bits == 4) {
    constexpr auto present = static_cast<__mmask16>((1u << (Dims / 4)) - 1);
    const __m512i order = _mm512_set_epi64(0, 0x000f'000b'0007'0003, 0, 0x000e'000a'0006'0002, 0,
                                           0x000d'0009'0005'0001, 0, 0x000c'0008'0004'0000);
    return _mm512_maskz_permutexvar_epi16(
        0xffffffffu, order, _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(present, row)));
  } else {
    static_assert(Bits == 2);
    constexpr auto present = static_cast<__mmask8>((1u << (Dims / 8)) - 1);
    const __m512i order =
        _mm512_set_epi64(0, 0x0f0b0703, 0, 0x0e0a0602, 0, 0x0d090501, 0, 0x0c080400);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_maskz_loadu_epi16(present, row)), order);
  }
}

// Quarters of four tokens, byte beside byte, one double word for the bytes of one place: those in
// the first and the second 8 bytes of each quarter.
struct FourTokens {
  __m512i low, high;
  BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
  BISUP_ALWAYS_INLINE FourTokens(__m512i ab, __m512i cd) noexcept
      : low(_mm512_unpacklo_epi16(ab, cd)), high(_mm512_unpackhi_epi16(ab, cd)) {}
};

// Dims dims, 32 or 64, of four tokens side by side: [Dims][4].
template <int Bits, int Dims>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store_four_tokens(const __m512i (&token)[4], std::uint8_t* out) noexcept {
  constexpr int vectors = Dims / 16;
  __m512i result[4];
  const FourTokens first(_mm512_unpacklo_epi8(token[0], token[1]),
                         _mm512_unpacklo_epi8(token[2], token[3]));
  if constexpr (Bits == 8) {
    const FourTokens second(_mm512_unpackhi_epi8(token[0], token[1]),
                            _mm512_unpackhi_epi8(token[2], token[3]));
    result[0] = first.low, result[1] = first.high, result[2] = second.low, result[3] = second.high;
  } else if constexpr (Bits == 4) {
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i even[2] = {_mm512_and_si512(first.low, mask), _mm512_and_si512(first.high, mask)};
    const __m512i odd[2] = {_mm512_and_si512(_mm512_srli_epi16(first.low, 4), mask),
                            _mm512_and_si512(_mm512_srli_epi16(first.high, 4), mask)};
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      result[2 * i] = _mm512_unpacklo_epi32(even[i], odd[i]);
      result[2 * i + 1] = _mm512_unpackhi_epi32(even[i], odd[i]);
    }
  } else {
    const __m512i mask = _mm512_set1_epi8(3);
    __m512i field[4];
#pragma GCC unroll 4
    for (unsigned f = 0; f < 4; ++f) {
      const __m512i from = f == 0 ? first.low : _mm512_srli_epi16(first.low, 2 * f);
      field[f] = _mm512_and_si512(from, mask);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512i of_01 = i == 0 ? _mm512_unpacklo_epi32(field[0], field[1])
                                   : _mm512_unpackhi_epi32(field[0], field[1]);
      const __m512i of_23 = i == 0 ? _mm512_unpacklo_epi32(field[2], field[3])
                                   : _mm512_unpackhi_epi32(field[2], field[3]);
      result[2 * i] = _mm512_unpacklo_epi64(of_01, of_23);
      result[2 * i + 1] = _mm512_unpackhi_epi64(of_01, of_23);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) _mm512_storeu_si512(out + v * panel16::vector_bytes, result[v]);
}

// Dims dims of a panel. Three bits cross bytes: 16 dims of one token at a time, each in a word.
template <int Bits, int Dims>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void value_columns(const std::uint8_t* codes, std::ptrdiff_t row_bytes, int dim,
                                       std::uint8_t* out) noexcept {
  constexpr int fours = kv_panel / 4;
  if constexpr (Bits == 3) {
    for (int i = 0; i < fours; ++i, codes += 4 * row_bytes, out += 4 * dim) {
#pragma GCC unroll 4
      for (int v = 0; v < Dims / 16; ++v) {
        const std::uint8_t* at = codes + v * 16 * Bits / 8;
        __m512i bytes = row_codes<Bits>(at);
#pragma GCC unroll 3
        for (unsigned t = 1; t < 4; ++t) {
          const __m512i token = row_codes<Bits>(at + static_cast<std::ptrdiff_t>(t) * row_bytes);
          bytes = _mm512_or_si512(bytes, _mm512_slli_epi32(token, 8 * t));
        }
        _mm512_storeu_si512(out + v * panel16::vector_bytes, bytes);
      }
    }
  } else {
    // All tokens before any byte is stored, as above.
    __m512i token[fours][4];
#pragma GCC unroll 4
    for (int i = 0; i < fours; ++i) {
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t, codes += row_bytes)
        token[i][t] = token_quarters<Bits, Dims>(codes);
    }
#pragma GCC unroll 4
    for (int i = 0; i < fours; ++i, out += 4 * dim) store_four_tokens<Bits, Dims>(token[i], out);
  }
}

template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED
    void value_bytes(const std::uint8_t* codes, const KvPanel& panel, std::uint8_t* out) noexcept {
  const int dim = panel.dim(), row_bytes = panel.token_bytes();
  int d = 0;
  for (; d + 64 <= dim; d += 64)
    value_columns<Bits, 64>(codes + d * Bits / 8, row_bytes, dim, out + 4 * d);
  if (d < dim) value_columns<Bits, 32>(codes + d * Bits / 8, row_bytes, dim, out + 4 * d);
}

// The larger bytes of numbers below 2^15 in magnitude, rounded so that what is left is a signed
// byte.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i larger_bytes(__m512i x) noexcept {
  return _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
}

// One row of queries, [dim]: two bytes each, the sum of each group of dims, their scale, and the
// product with the center. What is not finite makes the scale so.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline void query_bytes(const float* row, const float* center, int dim, int group,
                                        const QueryRow& to) noexcept {
  __m512i largest = _mm512_setzero_si512();
  __m512 sum = _mm512_setzero_ps();
  for (int d = 0; d < dim; d += 16) {
    const __m512 x = _mm512_loadu_ps(row + d);
    largest = _mm512_max_epi32(largest, magnitude_bits(x));
    sum = _mm512_fmadd_ps(x, _mm512_loadu_ps(center + d), sum);
  }
  const float magnitude = largest_magnitude(largest);
  *to.scale = magnitude / two_byte_levels, *to.center = sum_lanes(sum);
  const __m512 inverse = _mm512_set1_ps(magnitude > 0 ? two_byte_levels / magnitude : 0.0f);
  for (int begin = 0, g = 0; begin < dim; begin += group, ++g) {
    __m512i total = _mm512_setzero_si512();
    for (int d = begin; d < std::min(begin + group, dim); d += 16) {
      const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(row + d), inverse));
      total = _mm512_add_epi32(total, x);
      const __m128i large = _mm512_cvtepi32_epi8(larger_bytes(x)), small = _mm512_cvtepi32_epi8(x);
      auto* const at = reinterpret_cast<__m128i*>(to.bytes + 2 * d);
      _mm_storeu_si128(at, _mm_unpacklo_epi32(large, small));
      _mm_storeu_si128(at + 1, _mm_unpackhi_epi32(large, small));
    }
    to.sums[g] = _mm512_reduce_add_epi32(total);
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
