// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 read and write rows that end inside a register, and sum over lanes?

#include <bisup/core/platform.hpp>

#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <bisup/core/dense.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::avx2 {

// All ones in the first `count` lanes, zero in the others.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256i first_lanes(int count) noexcept {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first `count` (at most 8) elements from `at` on as floats, then zeros; reads no others.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE __m256 load_floats(const void* data, std::ptrdiff_t at, int count) noexcept {
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

// Masked stores are slow on AMD (tens of micro-operations), so short ones go in parts.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE void store_first(float* to, __m256 v, int count) noexcept {
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

// The sum of 8 lanes in a fixed order.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float sum_lanes(__m256 v) noexcept {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float largest_lane(__m256 v) noexcept {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace bisup::avx2
#endif
