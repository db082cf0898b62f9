// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the operations on single rows compute? The specification of kernel/vector.hpp: written to
// be obviously right, never optimised. Templates, for transforms and gradients are proved in
// double.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <bisup/kernel/target.hpp>

namespace bisup::scalar {

// y = x / sqrt(mean(x^2) + eps) * weight; y may be x.
template <class T>
BISUP_SCALAR inline void rms_norm(const T* x, const T* weight, int count, T eps, T* y) noexcept {
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += x[i] * x[i];
  const T inverse = 1 / std::sqrt(sum / static_cast<T>(count) + eps);
  for (int i = 0; i < count; ++i) y[i] = x[i] * inverse * weight[i];
}

// Turns dimensions i and i + half of every head by the angle of pair i, in place.
template <class T>
BISUP_SCALAR inline void rope(T* x, int heads, int half, const T* cosines,
                              const T* sines) noexcept {
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
BISUP_SCALAR inline void add(const T* x, int count, T* y) noexcept {
  for (int i = 0; i < count; ++i) y[i] += x[i];
}

// y = gate / (1 + exp(-gate)) * up; y may be gate or up.
template <class T>
BISUP_SCALAR inline void swiglu(const T* gate, const T* up, int count, T* y) noexcept {
  for (int i = 0; i < count; ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

// x = exp(x - max(x)) / sum of the same, in place.
template <class T>
BISUP_SCALAR inline void softmax(T* x, int count) noexcept {
  if (count == 0) return;
  const T largest = *std::max_element(x, x + count);
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += x[i] = std::exp(x[i] - largest);
  for (int i = 0; i < count; ++i) x[i] /= sum;
}

// x = scale (H (x) I) x in place, H the Walsh-Hadamard matrix of n = 2^m in natural order: x is
// [n, run], and butterflies join whole runs.
template <class T>
BISUP_SCALAR inline void hadamard_runs(T* x, int n, int run, T scale) noexcept {
  for (int half = run; half < n * run; half *= 2) {
    for (int block = 0; block < n * run; block += 2 * half) {
      for (int i = block; i < block + half; ++i) {
        const T a = x[i], b = x[i + half];
        x[i] = a + b, x[i + half] = a - b;
      }
    }
  }
  for (int i = 0; i < n * run; ++i) x[i] *= scale;
}

// The same with runs of one: x = scale H x.
template <class T>
BISUP_SCALAR inline void hadamard(T* x, int n, T scale) noexcept {
  hadamard_runs(x, n, 1, scale);
}

template <class T>
BISUP_SCALAR inline T signed_value(bool minus, T value) noexcept {
  return minus ? -value : value;
}

// x = scale S x in place, x [k, width], S a k x k matrix of signs, k a multiple of 4. Bit i of
// signs[row * (k / 4) + j] is set where the sign of column 4 j + i is minus. Four columns at a time
// in this order of additions, so that every kernel can look their sums up. scratch: 32 k values.
template <class T>
BISUP_SCALAR inline void sign_product(T* x, int k, const std::uint8_t* signs, int width, T scale,
                                      T* scratch) noexcept {
  for (int col = 0; col < width; ++col) {
    for (int row = 0; row < k; ++row) {
      T sum = 0;
      for (int j = 0; j < k; j += 4) {
        const unsigned bits = signs[(row * k + j) / 4];
        const T* v = x + j * width + col;
        sum += (signed_value(bits & 1, v[0]) + signed_value(bits & 2, v[width])) +
               (signed_value(bits & 4, v[2 * width]) + signed_value(bits & 8, v[3 * width]));
      }
      scratch[row] = sum;
    }
    for (int row = 0; row < k; ++row) x[row * width + col] = scratch[row] * scale;
  }
}

}  // namespace bisup::scalar
