// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the kernels of simulated rounding take, and what do their gradients say of a group's
// range? kernel/scalar_gradient.hpp computes with them.

namespace bisup {

// value = scale * clamp(round(x * inverse), low, high), low and high counted from the zero point.
template <class T>
struct LevelRange {
  T scale = 1, inverse = 1, low = 0, high = 0;
};

// Sums over a group, g the gradient of its rounded values and u = x * inverse: of g (round(u) - u)
// where round(u) is a level, and of g where it lies below and above all levels.
template <class T>
struct RangeGradient {
  T inside = 0, below = 0, above = 0;
};

// A row's largest element and the sum of exp(x - largest).
template <class T>
struct LogSum {
  T largest = 0, sum = 0;
};

}  // namespace bisup
