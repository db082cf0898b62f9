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

#include <bisup/core/format.hpp>
#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/unpack.hpp>

namespace bisup::neon {

inline constexpr int half_bytes = panel16::vector_bytes / 2;
inline constexpr int half_rows = panel16::tile_rows / 2;

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
BISUP_ALWAYS_INLINE uint8x16_t unpack(const std::uint8_t* tile) noexcept {
  if constexpr (Bits == 8) return vld1q_u8(tile + Step * panel16::vector_bytes);
  return unpack_from<Bits, Step, 0>(tile, vdupq_n_u8(0));
}

template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints unpack_half(const std::uint8_t* tile) noexcept {
  return {vreinterpretq_s32_u8(unpack<Bits, Step>(tile)),
          vreinterpretq_s32_u8(unpack<Bits, Step>(tile + half_bytes / 2))};
}

// Byte c of each lane.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints byte_of(Ints v, int c) noexcept {
  const int32x4_t right = vdupq_n_s32(-8 * c), byte = vdupq_n_s32(255);
  return {vandq_s32(vshlq_s32(v.low, right), byte), vandq_s32(vshlq_s32(v.high, right), byte)};
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Floats load_scales(const void* scales, Scale type, std::size_t index) noexcept {
  if (type == Scale::f32) return load(static_cast<const float*>(scales) + index);
  const uint16x8_t half = vld1q_u16(static_cast<const std::uint16_t*>(scales) + index);
  return type == Scale::f16 ? widen_halves<DType::f16>(half) : widen_halves<DType::bf16>(half);
}

BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE Ints load_zeros(const std::uint8_t* zeros) noexcept {
  return load_bytes(zeros);
}

}  // namespace bisup::neon
#endif
