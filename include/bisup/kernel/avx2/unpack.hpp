// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do 32 codes of a panel16 step (one half: 8 rows) become 32 bytes in AVX2, and 8 stored scales
// 8 floats?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/format.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/unpack.hpp>

namespace bisup::avx2 {

inline constexpr int half_bytes = panel16::vector_bytes / 2;
inline constexpr int half_rows = panel16::tile_rows / 2;

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i load(const void* at) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}

// The bits from `Bit` on of one step, merged into `done`. `tile` points at the half.
template <int Bits, int Step, int Bit>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i unpack_from(const std::uint8_t* tile, __m256i done) noexcept {
  if constexpr (Bit == Bits) {
    return done;
  } else {
    constexpr Piece piece = piece_at<Bits>(Step, Bit);
    __m256i v = load(tile + piece.vector * panel16::vector_bytes);
    if constexpr (piece.shift() > 0) v = _mm256_srli_epi16(v, piece.shift());
    if constexpr (piece.shift() < 0) v = _mm256_slli_epi16(v, -piece.shift());
    v = _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(piece.mask())));
    if constexpr (Bit > 0) v = _mm256_or_si256(v, done);
    return unpack_from<Bits, Step, Bit + piece.length>(tile, v);
  }
}

template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i unpack(const std::uint8_t* tile) noexcept {
  if constexpr (Bits == 8) return load(tile + Step * panel16::vector_bytes);
  return unpack_from<Bits, Step, 0>(tile, _mm256_setzero_si256());
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 load_scales(const void* scales, Scale type, std::size_t index) noexcept {
  if (type == Scale::f32) return _mm256_loadu_ps(static_cast<const float*>(scales) + index);
  const __m128i half = _mm_loadu_si128(
      reinterpret_cast<const __m128i*>(static_cast<const std::uint16_t*>(scales) + index));
  if (type == Scale::f16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i load_zeros(const std::uint8_t* zeros) noexcept {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i broadcast_codes(const std::int8_t* four) noexcept {
  std::int32_t bits;
  __builtin_memcpy(&bits, four, sizeof bits);
  return _mm256_set1_epi32(bits);
}

}  // namespace bisup::avx2
#endif
