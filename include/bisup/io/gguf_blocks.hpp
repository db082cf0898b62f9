// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which numbers does a block of a GGUF tensor mean? One function per type, after the layouts of
// ggml-common.h; dequantize() takes any range of blocks, so a large tensor can be read in strips.
//
// Scales are f16 (11 significant bits), sub-scales and codes at most 7 and 6 bits: every product
// below is exact in f32 and only the final subtraction of a minimum rounds, so the result is the
// same in any order and with fused multiply-add.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include <bisup/core/contract.hpp>
#include <bisup/core/float16.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/gguf_types.hpp>

namespace bisup::io {

namespace detail {

[[nodiscard]] inline float half_at(const std::uint8_t* at) {
  return to_float(Half{static_cast<std::uint16_t>(at[0] | at[1] << 8)});
}

// 32 codes of 4 bits: byte i holds code i below code i + 16. Returns code i.
[[nodiscard]] constexpr int nibble(const std::uint8_t* codes, int i) {
  return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
}
// The fifth bits of 32 codes, in order.
[[nodiscard]] constexpr int fifth_bit(const std::uint8_t* bits, int i) {
  return (bits[i / 8] >> i % 8 & 1) << 4;
}

inline void f32_block(const std::uint8_t* b, float* out) {
  std::memcpy(out, b, sizeof *out);
}
inline void f16_block(const std::uint8_t* b, float* out) {
  *out = half_at(b);
}
inline void bf16_block(const std::uint8_t* b, float* out) {
  *out = to_float(BFloat16{static_cast<std::uint16_t>(b[0] | b[1] << 8)});
}

// scale, 16 bytes of codes
inline void q4_0_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(nibble(b + 2, i) - 8);
}

// scale, minimum, 16 bytes of codes
inline void q4_1_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b), minimum = half_at(b + 2);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(nibble(b + 4, i)) + minimum;
}

// scale, 4 bytes of fifth bits, 16 bytes of codes
inline void q5_0_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>((nibble(b + 6, i) | fifth_bit(b + 2, i)) - 16);
  }
}

// scale, minimum, 4 bytes of fifth bits, 16 bytes of codes
inline void q5_1_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b), minimum = half_at(b + 2);
  for (int i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(nibble(b + 8, i) | fifth_bit(b + 4, i)) + minimum;
  }
}

// scale, 32 signed bytes
inline void q8_0_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b);
  for (int i = 0; i < 32; ++i)
    out[i] = scale * static_cast<float>(static_cast<std::int8_t>(b[2 + i]));
}

// The six types below hold 256 weights in sub-groups of 16 or 32. Their codes are 2-bit or 4-bit
// planes of 32 bytes each: the bytes of one plane hold a half (or a quarter) of 128 (or 64) weights
// in their low bits, and the next ones in the bits above.

// 16 bytes of 4-bit sub-scale | 4-bit sub-minimum, 64 bytes of 2-bit codes, scale, minimum
inline void q2_k_block(const std::uint8_t* b, float* out) {
  const std::uint8_t* codes = b + 16;
  const float scale = half_at(b + 80), minimum = half_at(b + 82);
  for (int group = 0; group < 16; ++group) {
    const float s = scale * static_cast<float>(b[group] & 15);
    const float m = minimum * static_cast<float>(b[group] >> 4);
    const std::uint8_t* plane = codes + group / 8 * 32 + group % 2 * 16;
    const int shift = group / 2 % 4 * 2;
    for (int i = 0; i < 16; ++i) *out++ = s * static_cast<float>(plane[i] >> shift & 3) - m;
  }
}

// 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of sixteen 6-bit sub-scales, scale. The
// third bit is stored inverted: clear means 4 less.
inline void q3_k_block(const std::uint8_t* b, float* out) {
  const std::uint8_t *codes = b + 32, *sub = b + 96;
  const float scale = half_at(b + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = group < 8 ? sub[group] & 15 : sub[group - 8] >> 4;
    const int high = sub[8 + group % 4] >> group / 4 * 2 & 3;
    const float s = scale * static_cast<float>((low | high << 4) - 32);
    const std::uint8_t* plane = codes + group / 8 * 32 + group % 2 * 16;
    const std::uint8_t* third = b + group % 2 * 16;
    const int shift = group / 2 % 4 * 2, bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      const int code = (plane[i] >> shift & 3) - (third[i] >> bit & 1 ? 0 : 4);
      *out++ = s * static_cast<float>(code);
    }
  }
}

// Eight pairs of 6-bit sub-scale and sub-minimum in 12 bytes: the first four of each in the low six
// bits of bytes 0 ... 3 and 4 ... 7, whose top bits are the top bits of the others.
struct SubScale {
  int scale, minimum;
};
[[nodiscard]] constexpr SubScale sub_scale(const std::uint8_t* packed, int group) {
  if (group < 4) return {packed[group] & 63, packed[group + 4] & 63};
  return {(packed[group + 4] & 15) | packed[group - 4] >> 6 << 4,
          packed[group + 4] >> 4 | packed[group] >> 6 << 4};
}

// scale, minimum, 12 bytes of sub-scales, 128 bytes of codes
inline void q4_k_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b), minimum = half_at(b + 2);
  for (int group = 0; group < 8; ++group) {
    const auto [sub, sub_minimum] = sub_scale(b + 4, group);
    const float s = scale * static_cast<float>(sub), m = minimum * static_cast<float>(sub_minimum);
    const std::uint8_t* plane = b + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) *out++ = s * static_cast<float>(plane[i] >> shift & 15) - m;
  }
}

// scale, minimum, 12 bytes of sub-scales, 32 bytes of fifth bits, 128 bytes of codes
inline void q5_k_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b), minimum = half_at(b + 2);
  for (int group = 0; group < 8; ++group) {
    const auto [sub, sub_minimum] = sub_scale(b + 4, group);
    const float s = scale * static_cast<float>(sub), m = minimum * static_cast<float>(sub_minimum);
    const std::uint8_t *plane = b + 48 + group / 2 * 32, *fifth = b + 16;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int code = (plane[i] >> shift & 15) | (fifth[i] >> group & 1) << 4;
      *out++ = s * static_cast<float>(code) - m;
    }
  }
}

// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed sub-scales, scale
inline void q6_k_block(const std::uint8_t* b, float* out) {
  const float scale = half_at(b + 208);
  for (int group = 0; group < 16; ++group) {
    const float s = scale * static_cast<float>(static_cast<std::int8_t>(b[192 + group]));
    const int half = group / 8, quarter = group / 2 % 4, start = group % 2 * 16;
    const std::uint8_t* low = b + half * 64 + quarter % 2 * 32 + start;
    const std::uint8_t* high = b + 128 + half * 32 + start;
    const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
    for (int i = 0; i < 16; ++i) {
      const int code = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      *out++ = s * static_cast<float>(code - 32);
    }
  }
}

using BlockReader = void (*)(const std::uint8_t*, float*);

[[nodiscard]] constexpr BlockReader block_reader(std::uint32_t type) {
  switch (static_cast<GgmlType>(type)) {
    case GgmlType::f32: return f32_block;
    case GgmlType::f16: return f16_block;
    case GgmlType::bf16: return bf16_block;
    case GgmlType::q4_0: return q4_0_block;
    case GgmlType::q4_1: return q4_1_block;
    case GgmlType::q5_0: return q5_0_block;
    case GgmlType::q5_1: return q5_1_block;
    case GgmlType::q8_0: return q8_0_block;
    case GgmlType::q2_k: return q2_k_block;
    case GgmlType::q3_k: return q3_k_block;
    case GgmlType::q4_k: return q4_k_block;
    case GgmlType::q5_k: return q5_k_block;
    case GgmlType::q6_k: return q6_k_block;
  }
  return nullptr;
}

}  // namespace detail

// Whether dequantize() reads this type.
[[nodiscard]] constexpr bool is_readable(const GgmlTypeFacts& type) {
  return detail::block_reader(type.number) != nullptr;
}

// Whole blocks to floats. Requires a readable type and as many blocks as fill `out`.
inline void dequantize(const GgmlTypeFacts& type, std::span<const std::byte> blocks,
                       std::span<float> out) {
  const auto read = detail::block_reader(type.number);
  const auto length = static_cast<std::size_t>(type.block);
  const auto block_bytes = static_cast<std::size_t>(type.block_bytes);
  BISUP_EXPECTS(read != nullptr && out.size() % length == 0 &&
                blocks.size() == out.size() / length * block_bytes);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(blocks.data());
  for (std::size_t i = 0; i < out.size() / length; ++i) {
    read(bytes + i * block_bytes, out.data() + i * length);
  }
}

}  // namespace bisup::io
