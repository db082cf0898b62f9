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
#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/unpack.hpp>

namespace bisup::avx2 {

// A panel's 16 rows take so many registers; a part is the rows of one, its bytes those of a step.
inline constexpr int panel_parts = panel16::tile_rows / lane_count;
inline constexpr int part_bytes = panel16::vector_bytes / panel_parts;

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
BISUP_ALWAYS_INLINE __m256i broadcast_codes(const std::int8_t* four) noexcept {
  std::int32_t bits;
  __builtin_memcpy(&bits, four, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// 2^23 plus byte `byte` of each lane.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats above_two23(Ints codes, int byte) noexcept {
  if (byte > 0) codes = _mm256_srli_epi32(codes, 8 * byte);
  if (byte < 3) codes = _mm256_and_si256(codes, splat(255));
  return bits_as_floats(_mm256_or_si256(codes, splat(two23)));
}

// 8 consecutive codes of a row, which fill whole bytes. Reading a 32-bit word may pass the row's
// end by two bytes, which whoever has such rows leaves room for.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints row_codes(const std::uint8_t* bytes) noexcept {
  if constexpr (Bits == 8) {
    return load_bytes(bytes);
  } else {
    static_assert(Bits <= 4);
    std::int32_t word;
    __builtin_memcpy(&word, bytes, sizeof word);
    const Ints shifts =
        _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
    return _mm256_and_si256(_mm256_srlv_epi32(splat(word), shifts), splat((1 << Bits) - 1));
  }
}

// Four steps of a part from byte lanes to rows: the 16 codes of row r become bytes
// [16 place, 16 place + 16), where place is row_place(r).
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_rows_of(Ints a, Ints b, Ints c, Ints d,
                                       std::uint8_t* bytes) noexcept {
  const Ints ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
  const Ints cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
  auto* to = reinterpret_cast<__m256i*>(bytes);
  _mm256_store_si256(to, _mm256_unpacklo_epi64(ab_low, cd_low));
  _mm256_store_si256(to + 1, _mm256_unpackhi_epi64(ab_low, cd_low));
  _mm256_store_si256(to + 2, _mm256_unpacklo_epi64(ab_high, cd_high));
  _mm256_store_si256(to + 3, _mm256_unpackhi_epi64(ab_high, cd_high));
}
[[nodiscard]] constexpr int row_place(int row) {
  return row % 4 * 2 + row / 4;
}

}  // namespace bisup::avx2
#endif
