// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which scale do activations with this largest magnitude get? parameters_for of pack/codes.hpp for
// the one case that kernels meet, in arithmetic that any target may inline.

#include <bisup/core/float16.hpp>
#include <bisup/core/platform.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/pack/codes.hpp>

namespace bisup {

[[nodiscard]] constexpr float activation_scale(const ActivationFormat& format, float largest) {
  const float clipped = largest * format.clip;
  const float range = clipped > smallest_range ? clipped : smallest_range;
  return range / static_cast<float>((1 << (format.bits - 1)) - 1);
}
// The quantizer's floor for stored scales never binds here.
static_assert(smallest_range / 127 > smallest_normal(Scale::f32));

}  // namespace bisup
