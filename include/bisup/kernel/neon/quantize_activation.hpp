// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does NEON round activations to 8-bit codes?

#include <bisup/core/platform.hpp>
#if BISUP_ARM64
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/activation_scale.hpp>
#include <bisup/kernel/neon/lanes.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/activation.hpp>

namespace bisup::neon {

// The largest magnitude; NaN counts as nothing.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
BISUP_ALWAYS_INLINE float largest_magnitude(const float* x, int count) noexcept {
  Floats largest = splat(0.0f);
  for (int i = 0; i < count; i += 8) {
    const Floats v = load_row(x, i, count);
    largest = larger({vabsq_f32(v.low), vabsq_f32(v.high)}, largest);
  }
  return largest_lane(largest);
}

// Limited by: reading x, twice: the second time from the first-level cache.
// Registers: the scale, both bounds, a sum and 8 codes.
// Nothing else was tried.
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
inline void quantize_activation(MatrixRef<const float> x, const ActivationFormat& format,
                                MatrixRef<std::int8_t> codes, MatrixRef<float> scales,
                                MatrixRef<std::int32_t> sums, int first_token,
                                int last_token) noexcept {
  const int padded = codes.cols(), cols = x.cols(), groups = sums.cols();
  const int group = format.group == 0 ? padded : format.group;
  const bool group_scales = scales.cols() > 1 || groups == 1;
  const auto highest = static_cast<float>((1 << (format.bits - 1)) - 1);
  const Floats high = splat(highest), low = splat(format.bits == 8 ? -highest : -highest - 1);
  for (int t = first_token; t < last_token; ++t) {
    const float* const row = x.data() + t * x.stride();
    std::int8_t* const out = codes.data() + t * codes.stride();
    float scale = 0;
    if (!group_scales) scale = activation_scale(format, largest_magnitude(row, cols));
    for (int g = 0; g < groups; ++g) {
      const int begin = g * group;
      const int count = cols - begin < group ? cols - begin : group;
      if (group_scales) scale = activation_scale(format, largest_magnitude(row + begin, count));
      const Floats inverse = splat(1.0f / scale);
      int32x4_t sum = vdupq_n_s32(0);
      const int padded_count = padded - begin < group ? padded - begin : group;
      for (int i = 0; i < padded_count; i += 8) {
        // A NaN is the first operand of larger, which then returns the second: the lowest code. The
        // padding must stay zero even where the inverse is not finite.
        const Floats level =
            smaller(larger(multiply(load_row(row + begin, i, count), inverse), low), high);
        const Ints code = to_ints(keep(first_lanes(count - i), level));
        sum = vaddq_s32(sum, vaddq_s32(code.low, code.high));
        const int16x8_t words = vcombine_s16(vmovn_s32(code.low), vmovn_s32(code.high));
        vst1_s8(out + begin + i, vmovn_s16(words));
      }
      sums.data()[t * sums.stride() + g] = vaddvq_s32(sum);
      if (g < scales.cols()) scales.data()[t * scales.stride() + g] = scale;
    }
  }
}

}  // namespace bisup::neon
#endif
