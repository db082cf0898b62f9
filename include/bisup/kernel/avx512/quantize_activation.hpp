// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does AVX-512 round activations to 8-bit codes?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/activation_scale.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/activation.hpp>

BISUP_INTRINSICS_BEGIN
namespace bisup::avx512 {

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE __mmask16 lanes(int count) noexcept {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1 << count) - 1);
}

// The largest magnitude; NaN counts as nothing, because max returns its second operand then.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_ALWAYS_INLINE float largest_magnitude(const float* x, int count) noexcept {
  __m512 a = _mm512_setzero_ps(), b = a;
  int i = 0;
  for (; i + 32 <= count; i += 32) {
    a = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + i)), a);
    b = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + i + 16)), b);
  }
  for (; i < count; i += 16)
    a = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(count - i), x + i)), a);
  return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

// Limited by: reading x, twice: the second time from the first-level cache.
// Registers: the scale, both bounds and a sum; nothing presses.
// Nothing else was tried.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
inline void quantize_activation(MatrixRef<const float> x, const ActivationFormat& format,
                                MatrixRef<std::int8_t> codes, MatrixRef<float> scales,
                                MatrixRef<std::int32_t> sums, int first_token,
                                int last_token) noexcept {
  const int padded = codes.cols(), cols = x.cols(), groups = sums.cols();
  const int group = format.group == 0 ? padded : format.group;
  const bool group_scales = scales.cols() > 1 || groups == 1;
  const auto highest = static_cast<float>((1 << (format.bits - 1)) - 1);
  const __m512 high = _mm512_set1_ps(highest);
  const __m512 low = _mm512_set1_ps(format.bits == 8 ? -highest : -highest - 1);
  for (int t = first_token; t < last_token; ++t) {
    const float* const row = x.data() + t * x.stride();
    std::int8_t* const out = codes.data() + t * codes.stride();
    float scale = 0;
    if (!group_scales) scale = activation_scale(format, largest_magnitude(row, cols));
    for (int g = 0; g < groups; ++g) {
      const int begin = g * group;
      const int count = cols - begin < group ? cols - begin : group;
      if (group_scales) scale = activation_scale(format, largest_magnitude(row + begin, count));
      const __m512 inverse = _mm512_set1_ps(1.0f / scale);
      __m512i sum = _mm512_setzero_si512();
      const int padded_count = padded - begin < group ? padded - begin : group;
      for (int i = 0; i < padded_count; i += 16) {
        const int left = count - i;
        const __mmask16 mask = lanes(left > 0 ? left : 0);
        const __m512 level = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + begin + i), inverse);
        // A NaN is the first operand of max, which then returns the second: the lowest code. The
        // padding must stay zero even where the inverse is not finite.
        const __m512i code =
            _mm512_maskz_cvtps_epi32(mask, _mm512_min_ps(_mm512_max_ps(level, low), high));
        sum = _mm512_add_epi32(sum, code);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + begin + i), _mm512_cvtepi32_epi8(code));
      }
      sums.data()[t * sums.stride() + g] = _mm512_reduce_add_epi32(sum);
      if (g < scales.cols()) scales.data()[t * scales.stride() + g] = scale;
    }
  }
}

}  // namespace bisup::avx512
BISUP_INTRINSICS_END
#endif
