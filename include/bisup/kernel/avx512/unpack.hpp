// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do 64 codes of a panel16 step become 64 bytes in AVX-512, and 16 stored scales 16 floats?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/format.hpp>
#include <bisup/kernel/avx512/lanes.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/unpack.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

// A panel's 16 rows take so many registers; a part is the rows of one, its bytes those of a step.
inline constexpr int panel_parts = panel16::tile_rows / lane_count;
inline constexpr int part_bytes = panel16::vector_bytes / panel_parts;

// The vectors of a tile, where they lie or loaded before.
struct StoredTile {
  const std::uint8_t* at;
  BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
  BISUP_ALWAYS_INLINE __m512i operator[](int vector) const noexcept {
    return _mm512_loadu_si512(at + vector * panel16::vector_bytes);
  }
};
template <int Bits>
struct LoadedTile {
  __m512i vectors[Bits];
  BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
  BISUP_ALWAYS_INLINE explicit LoadedTile(const std::uint8_t* at) noexcept {
#pragma GCC unroll 8
    for (int v = 0; v < Bits; ++v) vectors[v] = _mm512_loadu_si512(at + v * panel16::vector_bytes);
  }
  BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
  BISUP_ALWAYS_INLINE __m512i operator[](int vector) const noexcept {
    return vectors[vector];
  }
};

// The bits from `Bit` on of one step, merged into `done`.
template <int Bits, int Step, int Bit, class Tile>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i unpack_from(const Tile& tile, __m512i done) noexcept {
  if constexpr (Bit == Bits) {
    return done;
  } else {
    constexpr Piece piece = piece_at<Bits>(Step, Bit);
    __m512i v = tile[piece.vector];
    if constexpr (piece.shift() > 0) v = _mm512_srli_epi16(v, piece.shift());
    if constexpr (piece.shift() < 0) v = _mm512_slli_epi16(v, -piece.shift());
    const __m512i mask = _mm512_set1_epi8(static_cast<char>(piece.mask()));
    constexpr int and_or = 0xea;  // (v & mask) | done
    v = Bit == 0 ? _mm512_and_si512(v, mask) : _mm512_ternarylogic_epi32(v, mask, done, and_or);
    return unpack_from<Bits, Step, Bit + piece.length>(tile, v);
  }
}

// Codes of step `Step` of a tile, byte lane 4 row + code mod 4.
template <int Bits, int Step, class Tile>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i unpack(const Tile& tile) noexcept {
  if constexpr (Bits == 8) return tile[Step];
  return unpack_from<Bits, Step, 0>(tile, _mm512_setzero_si512());
}
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i unpack(const std::uint8_t* tile) noexcept {
  return unpack<Bits, Step>(StoredTile{tile});
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512 load_scales(const void* scales, Scale type, std::size_t index) noexcept {
  if (type == Scale::f32) return _mm512_loadu_ps(static_cast<const float*>(scales) + index);
  const __m256i half = _mm256_loadu_si256(
      reinterpret_cast<const __m256i*>(static_cast<const std::uint16_t*>(scales) + index));
  if (type == Scale::f16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Four consecutive activation codes in every lane.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512i broadcast_codes(const std::int8_t* four) noexcept {
  std::int32_t bits;
  __builtin_memcpy(&bits, four, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// 2^23 plus byte `byte` of each lane.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats above_two23(Ints codes, int byte) noexcept {
  constexpr int and_or = 0xea;  // (codes & 255) | 2^23
  if (byte > 0) codes = _mm512_srli_epi32(codes, static_cast<unsigned>(8 * byte));
  return bits_as_floats(_mm512_ternarylogic_epi32(codes, splat(255), splat(two23), and_or));
}

// 16 consecutive codes of a row. Eight codes fill whole bytes, so two 32-bit words hold them; the
// second word may read two bytes past the row, which whoever has such rows leaves room for.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints row_codes(const std::uint8_t* bytes) noexcept {
  if constexpr (Bits == 8) {
    return load_bytes(bytes);
  } else {
    static_assert(Bits <= 4);
    std::int32_t low, high;
    __builtin_memcpy(&low, bytes, sizeof low), __builtin_memcpy(&high, bytes + Bits, sizeof high);
    const Ints words = _mm512_mask_set1_epi32(splat(low), 0xff00, high);
    const Ints shifts =
        _mm512_set_epi32(7 * Bits, 6 * Bits, 5 * Bits, 4 * Bits, 3 * Bits, 2 * Bits, Bits, 0,
                         7 * Bits, 6 * Bits, 5 * Bits, 4 * Bits, 3 * Bits, 2 * Bits, Bits, 0);
    return _mm512_and_si512(_mm512_srlv_epi32(words, shifts), splat((1 << Bits) - 1));
  }
}

// Four steps of a part from byte lanes to rows: the 16 codes of row r become bytes
// [16 place, 16 place + 16), where place is row_place(r).
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store_rows_of(Ints a, Ints b, Ints c, Ints d,
                                       std::uint8_t* bytes) noexcept {
  const Ints ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
  const Ints cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
  _mm512_store_si512(bytes, _mm512_unpacklo_epi64(ab_low, cd_low));
  _mm512_store_si512(bytes + 64, _mm512_unpackhi_epi64(ab_low, cd_low));
  _mm512_store_si512(bytes + 128, _mm512_unpacklo_epi64(ab_high, cd_high));
  _mm512_store_si512(bytes + 192, _mm512_unpackhi_epi64(ab_high, cd_high));
}
[[nodiscard]] constexpr int row_place(int row) {
  return row % 4 * 4 + row / 4;
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
