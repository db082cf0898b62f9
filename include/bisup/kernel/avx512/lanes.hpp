// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What are lanes in AVX-512? Sixteen, a register: the words that the loops of kernel/lanes/ are
// written in, and how rows that end inside a register are read and written. The zero-masked forms
// with all lanes are the plain instructions; the unmasked intrinsics of g++ 12 warn of an
// uninitialised operand.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstdint>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/target.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;
inline constexpr int lane_count = 16;
inline constexpr int register_count = 32;

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats splat(float x) noexcept {
  return _mm512_set1_ps(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints splat(std::int32_t x) noexcept {
  return _mm512_set1_epi32(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats add(Floats a, Floats b) noexcept {
  return _mm512_add_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints add(Ints a, Ints b) noexcept {
  return _mm512_add_epi32(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats subtract(Floats a, Floats b) noexcept {
  return _mm512_sub_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints subtract(Ints a, Ints b) noexcept {
  return _mm512_sub_epi32(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats multiply(Floats a, Floats b) noexcept {
  return _mm512_mul_ps(a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats divide(Floats a, Floats b) noexcept {
  return _mm512_div_ps(a, b);
}
// a b + c, rounded once; c - a b; a b - c.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return _mm512_fmadd_ps(a, b, c);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats subtract_product(Floats a, Floats b, Floats c) noexcept {
  return _mm512_fnmadd_ps(a, b, c);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) noexcept {
  return _mm512_fmsub_ps(a, b, c);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats magnitude(Floats x) noexcept {
  return _mm512_abs_ps(x);
}
// Magnitudes are ordered as integers, and NaN is above all.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints magnitude_bits(Floats x) noexcept {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float largest_magnitude(Ints bits) noexcept {
  return std::bit_cast<float>(_mm512_reduce_max_epi32(bits));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float square_root(float x) noexcept {
  return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Mask less(Floats a, Floats b) noexcept {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Mask at_most(Floats a, Floats b) noexcept {
  return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Mask both(Mask a, Mask b) noexcept {
  return static_cast<Mask>(a & b);
}
// a where the mask is set, elsewhere b.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats select(Mask mask, Floats a, Floats b) noexcept {
  return _mm512_mask_blend_ps(mask, b, a);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats keep(Mask mask, Floats a) noexcept {  // elsewhere zero, NaN or not
  return _mm512_maskz_mov_ps(mask, a);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints keep(Mask mask, Ints a) noexcept {
  return _mm512_maskz_mov_epi32(mask, a);
}
// a + b and a b + c where the mask is set, elsewhere a and c.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats add_where(Mask mask, Floats a, Floats b) noexcept {
  return _mm512_mask_add_ps(a, mask, a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats multiply_add_where(Mask mask, Floats a, Floats b, Floats c) noexcept {
  return _mm512_mask3_fmadd_ps(a, b, c, mask);
}
// The second of the two where one is NaN.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats larger(Floats a, Floats b) noexcept {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats smaller(Floats a, Floats b) noexcept {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats larger_where(Mask mask, Floats a, Floats b) noexcept {  // elsewhere a
  return _mm512_mask_max_ps(a, mask, a, b);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats rounded(Floats x) noexcept {  // to the nearest, even where two are
  return _mm512_maskz_roundscale_ps(0xffff, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints to_ints(Floats x) noexcept {  // the same
  return _mm512_maskz_cvtps_epi32(0xffff, x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats to_floats(Ints x) noexcept {
  return _mm512_maskz_cvtepi32_ps(0xffff, x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats bits_as_floats(Ints x) noexcept {
  return _mm512_castsi512_ps(x);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints bits_as_ints(Floats x) noexcept {
  return _mm512_castps_si512(x);
}
// x times two to the n, for whole n.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats times_two_to(Floats x, Floats n) noexcept {
  return _mm512_maskz_scalef_ps(0xffff, x, n);
}

// The same where 2^n is a normal number.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats times_normal_two_to(Floats x, Floats n) noexcept {
  return times_two_to(x, n);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats load(const float* from) noexcept {
  return _mm512_loadu_ps(from);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store(float* to, Floats v) noexcept {
  _mm512_storeu_ps(to, v);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store(std::int32_t* to, Ints v) noexcept {
  _mm512_storeu_si512(to, v);
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Ints load_bytes(const std::uint8_t* from) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm512_maskz_cvtepu8_epi32(0xffff, bytes);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Mask first_lanes(int count) noexcept {
  return static_cast<Mask>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}
// Those whose bits are set, the first in the lowest.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Mask lanes_of(std::uint64_t bits) noexcept {
  return static_cast<Mask>(bits);
}

// 16 elements from `at` on as floats, zero where the mask is.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats load_floats(const void* data, std::ptrdiff_t at, Mask mask) noexcept {
  if constexpr (Type == DType::f32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(data) + at);
  } else if constexpr (Type == DType::i8) {
    const __m128i codes = _mm_maskz_loadu_epi8(mask, static_cast<const std::int8_t*>(data) + at);
    return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, codes));
  } else {
    const __m256i bits =
        _mm256_maskz_loadu_epi16(mask, static_cast<const std::uint16_t*>(data) + at);
    if constexpr (Type == DType::f16) return _mm512_maskz_cvtph_ps(0xffff, bits);
    return _mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
  }
}

// The first `count` elements from `at` on as floats, then zeros; reads no others.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats load_floats(const void* data, std::ptrdiff_t at, int count) noexcept {
  return load_floats<Type>(data, at, first_lanes(count));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats load_row(const float* x, int at, int count) noexcept {
  return load_floats<DType::f32>(x, at, count - at);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store_first(float* to, Floats v, int count) noexcept {
  _mm512_mask_storeu_ps(to, first_lanes(count), v);
}

// The first `count` lanes, of 0 to 255, as bytes.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store_bytes(std::uint8_t* to, Ints v, int count) noexcept {
  _mm_mask_storeu_epi8(to, first_lanes(count), _mm512_maskz_cvtepi32_epi8(0xffff, v));
}
// 32 numbers of -128 to 127 as bytes.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void store_bytes(std::int8_t* to, const Ints (&v)[2]) noexcept {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * i),
                     _mm512_maskz_cvtepi32_epi8(0xffff, v[i]));
  }
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float first_lane(Floats v) noexcept {
  return _mm512_cvtss_f32(v);
}
// The sum of 16 lanes in a fixed order.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float sum_lanes(Floats v) noexcept {
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, v, 0),
               high = _mm512_maskz_extractf32x8_ps(0xff, v, 1);
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE std::int32_t sum_lanes(Ints v) noexcept {
  return _mm512_reduce_add_epi32(v);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float largest_lane(Floats v) noexcept {
  const __m256 eight = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                                     _mm512_maskz_extractf32x8_ps(0xff, v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float smallest_lane(Floats v) noexcept {
  const __m256 eight = _mm256_min_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                                     _mm512_maskz_extractf32x8_ps(0xff, v, 1));
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

// A butterfly: `other` is x with partners swapped.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats butterfly(Floats x, Floats other, Mask differences) noexcept {
  return _mm512_mask_sub_ps(add(x, other), differences, other, x);
}

// The Walsh-Hadamard matrix of as many rows as there are lanes, without a scale.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE Floats hadamard_of_lanes(Floats x) noexcept {
  x = butterfly(x, _mm512_maskz_permute_ps(0xffff, x, 0xb1), 0xaaaa);
  x = butterfly(x, _mm512_maskz_permute_ps(0xffff, x, 0x4e), 0xcccc);
  x = butterfly(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0xb1), 0xf0f0);
  return butterfly(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0x4e), 0xff00);
}

// So many registers as there are lanes, rows for columns.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE void transpose(Floats (&a)[16]) noexcept {
  __m512 b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_maskz_unpacklo_ps(0xffff, a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_maskz_unpackhi_ps(0xffff, a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // a[4i + j]: column j of the four 4 x 4 blocks of rows 4i ...
    const __m512d p0 = _mm512_castps_pd(b[4 * i]), p1 = _mm512_castps_pd(b[4 * i + 1]);
    const __m512d p2 = _mm512_castps_pd(b[4 * i + 2]), p3 = _mm512_castps_pd(b[4 * i + 3]);
    a[4 * i] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, p0, p2));
    a[4 * i + 1] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, p0, p2));
    a[4 * i + 2] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, p1, p3));
    a[4 * i + 3] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, p1, p3));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 low01 = _mm512_maskz_shuffle_f32x4(0xffff, a[j], a[4 + j], 0x88);
    const __m512 high01 = _mm512_maskz_shuffle_f32x4(0xffff, a[j], a[4 + j], 0xdd);
    const __m512 low23 = _mm512_maskz_shuffle_f32x4(0xffff, a[8 + j], a[12 + j], 0x88);
    const __m512 high23 = _mm512_maskz_shuffle_f32x4(0xffff, a[8 + j], a[12 + j], 0xdd);
    b[j] = _mm512_maskz_shuffle_f32x4(0xffff, low01, low23, 0x88);
    b[4 + j] = _mm512_maskz_shuffle_f32x4(0xffff, high01, high23, 0x88);
    b[8 + j] = _mm512_maskz_shuffle_f32x4(0xffff, low01, low23, 0xdd);
    b[12 + j] = _mm512_maskz_shuffle_f32x4(0xffff, high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = b[i];
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
