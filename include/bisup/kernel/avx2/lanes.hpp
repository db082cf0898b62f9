// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What are lanes in AVX2? Eight, a register: the words that the loops of kernel/lanes/ are written
// in, and how rows that end inside a register are read and written.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::avx2 {

using Floats = __m256;
using Ints = __m256i;
using Mask = __m256i;  // all ones or zero
inline constexpr int lane_count = 8;
inline constexpr int register_count = 16;

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats splat(float x) noexcept {
  return _mm256_set1_ps(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints splat(std::int32_t x) noexcept {
  return _mm256_set1_epi32(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats add(Floats a, Floats b) noexcept {
  return _mm256_add_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints add(Ints a, Ints b) noexcept {
  return _mm256_add_epi32(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats subtract(Floats a, Floats b) noexcept {
  return _mm256_sub_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints subtract(Ints a, Ints b) noexcept {
  return _mm256_sub_epi32(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats multiply(Floats a, Floats b) noexcept {
  return _mm256_mul_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats divide(Floats a, Floats b) noexcept {
  return _mm256_div_ps(a, b);
}
// a b + c, rounded once; c - a b; a b - c.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return _mm256_fmadd_ps(a, b, c);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats subtract_product(Floats a, Floats b, Floats c) noexcept {
  return _mm256_fnmadd_ps(a, b, c);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) noexcept {
  return _mm256_fmsub_ps(a, b, c);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats magnitude(Floats x) noexcept {
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float square_root(float x) noexcept {
  return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Mask less(Floats a, Floats b) noexcept {
  return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Mask at_most(Floats a, Floats b) noexcept {
  return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LE_OQ));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Mask both(Mask a, Mask b) noexcept {
  return _mm256_and_si256(a, b);
}
// a where the mask is set, elsewhere b.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats select(Mask mask, Floats a, Floats b) noexcept {
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats keep(Mask mask, Floats a) noexcept {  // elsewhere zero, NaN or not
  return _mm256_and_ps(a, _mm256_castsi256_ps(mask));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints keep(Mask mask, Ints a) noexcept {
  return _mm256_and_si256(a, mask);
}
// a + b and a b + c where the mask is set, elsewhere a and c.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats add_where(Mask mask, Floats a, Floats b) noexcept {
  return add(a, keep(mask, b));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats multiply_add_where(Mask mask, Floats a, Floats b, Floats c) noexcept {
  return multiply_add(keep(mask, a), keep(mask, b), c);
}
// The second of the two where one is NaN.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats larger(Floats a, Floats b) noexcept {
  return _mm256_max_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats smaller(Floats a, Floats b) noexcept {
  return _mm256_min_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats larger_where(Mask mask, Floats a, Floats b) noexcept {  // elsewhere a
  return larger(a, select(mask, b, a));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats rounded(Floats x) noexcept {  // to the nearest, even where two are
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints to_ints(Floats x) noexcept {  // the same
  return _mm256_cvtps_epi32(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats to_floats(Ints x) noexcept {
  return _mm256_cvtepi32_ps(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats bits_as_floats(Ints x) noexcept {
  return _mm256_castsi256_ps(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints bits_as_ints(Floats x) noexcept {
  return _mm256_castps_si256(x);
}
// x times two to the n, for whole n. One factor 2^n could not reach subnormal results.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats times_two_to(Floats x, Floats n) noexcept {
  const Ints whole = to_ints(n), half = _mm256_srai_epi32(whole, 1), bias = splat(127);
  const Ints first = _mm256_slli_epi32(add(half, bias), 23);
  const Ints second = _mm256_slli_epi32(add(subtract(whole, half), bias), 23);
  return multiply(multiply(x, bits_as_floats(first)), bits_as_floats(second));
}

// The same where 2^n is a normal number.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats times_normal_two_to(Floats x, Floats n) noexcept {
  const Ints exponent = add(to_ints(n), splat(127));
  return multiply(x, bits_as_floats(_mm256_slli_epi32(exponent, 23)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats load(const float* from) noexcept {
  return _mm256_loadu_ps(from);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store(float* to, Floats v) noexcept {
  _mm256_storeu_ps(to, v);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store(std::int32_t* to, Ints v) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Ints load_bytes(const std::uint8_t* from) noexcept {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
// The first `count` lanes, of 0 to 255, as bytes.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_bytes(std::uint8_t* to, Ints v, int count) noexcept {
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  alignas(8) std::uint8_t bytes[8];
  _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(words, words));
  std::memcpy(to, bytes, static_cast<std::size_t>(count < 8 ? count : 8));
}
// 32 numbers of -128 to 127 as bytes.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_bytes(std::int8_t* to, const Ints (&v)[4]) noexcept {
  const Ints packed =
      _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  const Ints order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(packed, order));
}

// All ones in the first `count` lanes, zero in the others.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Mask first_lanes(int count) noexcept {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// Those whose bits are set, the first in the lowest.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Mask lanes_of(std::uint64_t bits) noexcept {
  const Ints bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(splat(static_cast<std::int32_t>(bits)), bit), bit);
}

// The first `count` (at most 8) elements from `at` on as floats, then zeros; reads no others.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats load_floats(const void* data, std::ptrdiff_t at, int count) noexcept {
  if constexpr (Type == DType::f32) {
    const float* from = static_cast<const float*>(data) + at;
    return count >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, first_lanes(count));
  } else if constexpr (Type == DType::i8) {
    const std::int8_t* from = static_cast<const std::int8_t*>(data) + at;
    std::int64_t codes = 0;
    std::memcpy(&codes, from, static_cast<std::size_t>(count >= 8 ? 8 : count));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(codes)));
  } else {
    const std::uint16_t* from = static_cast<const std::uint16_t*>(data) + at;
    __m128i bits;
    if (count >= 8) {
      bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    } else {
      alignas(16) std::uint16_t padded[8] = {};
      for (int i = 0; i < count; ++i) padded[i] = from[i];
      bits = _mm_load_si128(reinterpret_cast<const __m128i*>(padded));
    }
    if constexpr (Type == DType::f16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats load_row(const float* x, int at, int count) noexcept {
  return load_floats<DType::f32>(x, at, count - at);
}

// Masked stores are slow on AMD (tens of micro-operations), so short ones go in parts.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_first(float* to, Floats v, int count) noexcept {
  if (count >= 8) return _mm256_storeu_ps(to, v);
  __m128 rest = _mm256_castps256_ps128(v);
  if (count & 4) {
    _mm_storeu_ps(to, rest);
    rest = _mm256_extractf128_ps(v, 1), to += 4;
  }
  if (count & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(to), rest);
    rest = _mm_movehl_ps(rest, rest), to += 2;
  }
  if (count & 1) _mm_store_ss(to, rest);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float first_lane(Floats v) noexcept {
  return _mm256_cvtss_f32(v);
}
// The sum of 8 lanes in a fixed order.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float sum_lanes(Floats v) noexcept {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE std::int32_t sum_lanes(Ints v) noexcept {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 1)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float largest_lane(Floats v) noexcept {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float smallest_lane(Floats v) noexcept {
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

// A butterfly: `other` is x with partners swapped.
template <int Differences>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats butterfly(Floats x, Floats other) noexcept {
  return _mm256_blend_ps(add(x, other), subtract(other, x), Differences);
}

// The Walsh-Hadamard matrix of as many rows as there are lanes, without a scale.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE Floats hadamard_of_lanes(Floats x) noexcept {
  x = butterfly<0xaa>(x, _mm256_permute_ps(x, 0xb1));
  x = butterfly<0xcc>(x, _mm256_permute_ps(x, 0x4e));
  return butterfly<0xf0>(x, _mm256_permute2f128_ps(x, x, 1));
}

// So many registers as there are lanes, rows for columns.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void transpose(Floats (&a)[8]) noexcept {
  __m256 b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
    a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
    a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
    a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256 low = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
    a[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
    a[j] = low;
  }
}

}  // namespace bisup::avx2
#endif
