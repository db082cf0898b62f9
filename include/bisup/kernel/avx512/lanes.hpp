// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 read and write rows that end inside a register, and sum over lanes? The
// zero-masked forms with all lanes are the plain instructions; the unmasked intrinsics of g++ 12
// warn of an uninitialised operand.

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::avx512 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __mmask16 first_lanes(int count) noexcept {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

// 16 elements from `at` on as floats, zero where the mask is.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __m512
    load_floats(const void* data, std::ptrdiff_t at, __mmask16 mask) noexcept {
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

// The sum of 16 lanes in a fixed order.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float sum_lanes(__m512 v) noexcept {
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, v, 0),
               high = _mm512_maskz_extractf32x8_ps(0xff, v, 1);
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float largest_lane(__m512 v) noexcept {
  const __m256 eight = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                                     _mm512_maskz_extractf32x8_ps(0xff, v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace bisup::avx512
#endif
