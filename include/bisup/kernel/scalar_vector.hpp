// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the operations on single rows compute? The specification of kernel/vector.hpp: written to
// be obviously right, never optimised. Templates, because laws are proved in double.

#include <algorithm>
#include <cmath>

#include <bisup/kernel/target.hpp>

namespace bisup::scalar {

// y = x / sqrt(mean(x^2) + eps) * weight; y may be x.
template <class T>
BISUP_SCALAR void rms_norm(const T* x, const T* weight, int count, T eps, T* y) noexcept {
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += x[i] * x[i];
  const T inverse = 1 / std::sqrt(sum / static_cast<T>(count) + eps);
  for (int i = 0; i < count; ++i) y[i] = x[i] * inverse * weight[i];
}

// Turns dimensions i and i + half of every head by the angle of pair i, in place.
template <class T>
BISUP_SCALAR void rope(T* x, int heads, int half, const T* cosines, const T* sines) noexcept {
  for (int h = 0; h < heads; ++h, x += 2 * half) {
    for (int i = 0; i < half; ++i) {
      const T a = x[i], b = x[i + half];
      x[i] = a * cosines[i] - b * sines[i];
      x[i + half] = b * cosines[i] + a * sines[i];
    }
  }
}

// y += x.
template <class T>
BISUP_SCALAR void add(const T* x, int count, T* y) noexcept {
  for (int i = 0; i < count; ++i) y[i] += x[i];
}

// y = gate / (1 + exp(-gate)) * up; y may be gate or up.
template <class T>
BISUP_SCALAR void swiglu(const T* gate, const T* up, int count, T* y) noexcept {
  for (int i = 0; i < count; ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

// x = exp(x - max(x)) / sum of the same, in place.
template <class T>
BISUP_SCALAR void softmax(T* x, int count) noexcept {
  if (count == 0) return;
  const T largest = *std::max_element(x, x + count);
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += x[i] = std::exp(x[i] - largest);
  for (int i = 0; i < count; ++i) x[i] /= sum;
}

// x = scale H x in place, H the Walsh-Hadamard matrix of n = 2^m in natural order.
template <class T>
BISUP_SCALAR void hadamard(T* x, int n, T scale) noexcept {
  for (int half = 1; half < n; half *= 2) {
    for (int block = 0; block < n; block += 2 * half) {
      for (int i = block; i < block + half; ++i) {
        const T a = x[i], b = x[i + half];
        x[i] = a + b, x[i + half] = a - b;
      }
    }
  }
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace bisup::scalar
