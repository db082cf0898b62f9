// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are activations rounded to 8-bit codes? Included by each_target.hpp.

#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/activation_scale.hpp>
#include <bisup/pack/activation.hpp>

namespace bisup::BISUP_LANES {

// The largest magnitude; NaN counts as nothing, because larger() returns its second operand then.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE float largest_magnitude(const float* x, int count) noexcept {
  Floats even = splat(0.0f), odd = even;
  int i = 0;
  for (; i + 2 * lane_count <= count; i += 2 * lane_count) {
    even = larger(magnitude(load(x + i)), even);
    odd = larger(magnitude(load(x + i + lane_count)), odd);
  }
  for (; i < count; i += lane_count) even = larger(magnitude(load_row(x, i, count)), even);
  return largest_lane(larger(even, odd));
}

// Limited by: reading x, twice: the second time from the first-level cache.
// Registers: the scale, both bounds, a sum and 32 codes.
// Nothing else was tried.
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
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
      Ints sum = splat(0);
      const int padded_count = padded - begin < group ? padded - begin : group;
      for (int i = 0; i < padded_count; i += 32) {
        Ints code[32 / lane_count];
#pragma GCC unroll 4
        for (int j = 0; j < 32 / lane_count; ++j) {
          const int at = i + lane_count * j;
          const Floats level = multiply(load_row(row + begin, at, count), inverse);
          // A NaN is the first operand of larger(), which then returns the second: the lowest code.
          // The padding must stay zero even where the inverse is not finite.
          code[j] = keep(first_lanes(count - at), to_ints(smaller(larger(level, low), high)));
          sum = add(sum, code[j]);
        }
        store_bytes(out + begin + i, code);
      }
      sums.data()[t * sums.stride() + g] = sum_lanes(sum);
      if (g < scales.cols()) scales.data()[t * scales.stride() + g] = scale;
    }
  }
}

}  // namespace bisup::BISUP_LANES
