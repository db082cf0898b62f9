// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX2 round activations to 8-bit codes?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/activation_scale.hpp>
#include <bisup/kernel/avx2/lanes.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/activation.hpp>

namespace bisup::avx2 {

// The largest magnitude; NaN counts as nothing, because max returns its second operand then.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_ALWAYS_INLINE float largest_magnitude(const float* x, int count) noexcept {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 a = _mm256_setzero_ps(), b = a;
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    a = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i), magnitude), a);
    b = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i + 8), magnitude), b);
  }
  for (; i < count; i += 8) {
    a = _mm256_max_ps(_mm256_and_ps(_mm256_maskload_ps(x + i, first_lanes(count - i)), magnitude),
                      a);
  }
  a = _mm256_max_ps(a, b);
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

// Limited by: reading x, twice: the second time from the first-level cache.
// Registers: the scale, both bounds, a sum and four quarters of 32 codes.
// Nothing else was tried.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
inline void quantize_activation(MatrixRef<const float> x, const ActivationFormat& format,
                                MatrixRef<std::int8_t> codes, MatrixRef<float> scales,
                                MatrixRef<std::int32_t> sums, int first_token,
                                int last_token) noexcept {
  const int padded = codes.cols(), cols = x.cols(), groups = sums.cols();
  const int group = format.group == 0 ? padded : format.group;
  const bool group_scales = scales.cols() > 1 || groups == 1;
  const auto highest = static_cast<float>((1 << (format.bits - 1)) - 1);
  const __m256 high = _mm256_set1_ps(highest);
  const __m256 low = _mm256_set1_ps(format.bits == 8 ? -highest : -highest - 1);
  for (int t = first_token; t < last_token; ++t) {
    const float* const row = x.data() + t * x.stride();
    std::int8_t* const out = codes.data() + t * codes.stride();
    float scale = 0;
    if (!group_scales) scale = activation_scale(format, largest_magnitude(row, cols));
    for (int g = 0; g < groups; ++g) {
      const int begin = g * group;
      const int count = cols - begin < group ? cols - begin : group;
      if (group_scales) scale = activation_scale(format, largest_magnitude(row + begin, count));
      const __m256 inverse = _mm256_set1_ps(1.0f / scale);
      __m256i sum = _mm256_setzero_si256();
      const int padded_count = padded - begin < group ? padded - begin : group;
      for (int i = 0; i < padded_count; i += 32) {
        __m256i quarter[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const __m256i mask = first_lanes(count - i - 8 * j);
          const __m256 level =
              _mm256_mul_ps(_mm256_maskload_ps(row + begin + i + 8 * j, mask), inverse);
          // A NaN is the first operand of max, which then returns the second: the lowest code. The
          // padding must stay zero even where the inverse is not finite.
          quarter[j] = _mm256_and_si256(
              _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(level, low), high)), mask);
          sum = _mm256_add_epi32(sum, quarter[j]);
        }
        const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(quarter[0], quarter[1]),
                                                  _mm256_packs_epi32(quarter[2], quarter[3]));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + begin + i),
                            _mm256_permutevar8x32_epi32(packed, order));
      }
      __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
      half = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
      half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 1));
      sums.data()[t * sums.stride() + g] = _mm_cvtsi128_si32(half);
      if (g < scales.cols()) scales.data()[t * scales.stride() + g] = scale;
    }
  }
}

}  // namespace bisup::avx2
#endif
