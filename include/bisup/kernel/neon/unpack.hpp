// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do codes of a panel16 step become bytes in NEON: a quarter (4 rows) in one register, a half
// in two? And 8 stored scales 8 floats?

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/format.hpp>
#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/unpack.hpp>

namespace bisup::neon {

// A panel's 16 rows take so many registers; a part is the rows of one, its bytes those of a step.
inline constexpr int panel_parts = panel16::tile_rows / lane_count;
inline constexpr int part_bytes = panel16::vector_bytes / panel_parts;

// The bits from `Bit` on of one step, merged into `done`. `tile` points at the quarter.
template <int Bits, int Step, int Bit>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE uint8x16_t unpack_from(const std::uint8_t* tile, uint8x16_t done) noexcept {
  if constexpr (Bit == Bits) {
    return done;
  } else {
    constexpr Piece piece = piece_at<Bits>(Step, Bit);
    uint8x16_t v = vld1q_u8(tile + piece.vector * panel16::vector_bytes);
    if constexpr (piece.shift() > 0) v = vshrq_n_u8(v, piece.shift());
    if constexpr (piece.shift() < 0) v = vshlq_n_u8(v, -piece.shift());
    v = vandq_u8(v, vdupq_n_u8(static_cast<std::uint8_t>(piece.mask())));
    if constexpr (Bit > 0) v = vorrq_u8(v, done);
    return unpack_from<Bits, Step, Bit + piece.length>(tile, v);
  }
}

template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE uint8x16_t unpack_quarter(const std::uint8_t* tile) noexcept {
  if constexpr (Bits == 8) return vld1q_u8(tile + Step * panel16::vector_bytes);
  return unpack_from<Bits, Step, 0>(tile, vdupq_n_u8(0));
}

template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints unpack(const std::uint8_t* tile) noexcept {
  return {vreinterpretq_s32_u8(unpack_quarter<Bits, Step>(tile)),
          vreinterpretq_s32_u8(unpack_quarter<Bits, Step>(tile + part_bytes / 2))};
}

// 2^23 plus byte `byte` of each lane.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE int32x4_t above_two23(int32x4_t codes, int byte) noexcept {
  const int32x4_t right = vdupq_n_s32(-8 * byte);
  return vorrq_s32(vandq_s32(vshlq_s32(codes, right), vdupq_n_s32(255)), vdupq_n_s32(two23));
}
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats above_two23(Ints codes, int byte) noexcept {
  return bits_as_floats({above_two23(codes.low, byte), above_two23(codes.high, byte)});
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats load_scales(const void* scales, Scale type, std::size_t index) noexcept {
  if (type == Scale::f32) return load(static_cast<const float*>(scales) + index);
  const uint16x8_t half = vld1q_u16(static_cast<const std::uint16_t*>(scales) + index);
  return type == Scale::f16 ? widen_halves<DType::f16>(half) : widen_halves<DType::bf16>(half);
}

// 8 consecutive codes of a row, which fill whole bytes. Reading a 32-bit word may pass the row's
// end by two bytes, which whoever has such rows leaves room for.
template <int Bits>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints row_codes(const std::uint8_t* bytes) noexcept {
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

// Four steps of a part from byte lanes to rows: the 16 codes of row r become bytes
// [16 place, 16 place + 16), where place is row_place(r).
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE void store_rows_of(Ints a, Ints b, Ints c, Ints d,
                                       std::uint8_t* bytes) noexcept {
  auto* to = reinterpret_cast<std::int32_t*>(bytes);
  const int32x4x4_t low{{a.low, b.low, c.low, d.low}}, high{{a.high, b.high, c.high, d.high}};
  vst4q_s32(to, low), vst4q_s32(to + 16, high);
}
[[nodiscard]] constexpr int row_place(int row) {
  return row;
}

}  // namespace bisup::neon
#endif
