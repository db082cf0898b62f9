// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the operations of a backward pass compute on single rows? The specification of
// kernel/gradient.hpp; templates, because gradients are proved in double. Outputs may be inputs,
// except where sums are added to.

#include <cmath>

#include <bisup/kernel/levels.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::scalar {

// y = scale * clamp(round(x * inverse), low, high); NaN becomes low, as in pack/codes.hpp.
template <class T>
BISUP_SCALAR void round_to_levels(const T* x, int count, const LevelRange<T>& levels,
                                  T* y) noexcept {
  for (int i = 0; i < count; ++i) {
    T level = std::nearbyint(x[i] * levels.inverse);
    level = level > levels.low ? level : levels.low;
    y[i] = levels.scale * (level < levels.high ? level : levels.high);
  }
}

// Straight through: dx = g where round(u) is a level, else zero.
template <class T>
BISUP_SCALAR RangeGradient<T> round_gradient(const T* x, const T* g, int count,
                                             const LevelRange<T>& levels, T* dx) noexcept {
  RangeGradient<T> sums;
  for (int i = 0; i < count; ++i) {
    const T u = x[i] * levels.inverse, level = std::nearbyint(u), up = g[i];
    if (level < levels.low) sums.below += up;
    if (level > levels.high) sums.above += up;
    const bool inside = level >= levels.low && level <= levels.high;
    if (inside) sums.inside += up * (level - u);
    dx[i] = inside ? up : 0;
  }
  return sums;
}

// Of h = silu(gate) up: dgate = dh up s (1 + gate (1 - s)), dup = dh gate s, s = 1 / (1 +
// exp(-gate)).
template <class T>
BISUP_SCALAR void swiglu_gradient(const T* gate, const T* up, const T* dh, int count, T* dgate,
                                  T* dup) noexcept {
  for (int i = 0; i < count; ++i) {
    const T a = gate[i], u = up[i], d = dh[i], s = 1 / (1 + std::exp(-a));
    dgate[i] = d * u * s * (1 + a * (1 - s));
    dup[i] = d * a * s;
  }
}

// Of p = softmax(s): ds = p (dp - sum(p dp)).
template <class T>
BISUP_SCALAR void softmax_gradient(const T* p, const T* dp, int count, T* ds) noexcept {
  T dot = 0;
  for (int i = 0; i < count; ++i) dot += p[i] * dp[i];
  for (int i = 0; i < count; ++i) ds[i] = p[i] * (dp[i] - dot);
}

// Of y = x r weight, r = (mean(x^2) + eps)^-1/2: dx = r (w dy) - x r^3 mean(x w dy).
template <class T>
BISUP_SCALAR void rms_norm_gradient(const T* x, const T* weight, const T* dy, int count, T eps,
                                    T* dx) noexcept {
  T squares = 0, dot = 0;
  for (int i = 0; i < count; ++i) squares += x[i] * x[i], dot += x[i] * (weight[i] * dy[i]);
  const T inverse = 1 / std::sqrt(squares / static_cast<T>(count) + eps);
  const T pull = inverse * inverse * inverse * (dot / static_cast<T>(count));
  for (int i = 0; i < count; ++i) dx[i] = inverse * (weight[i] * dy[i]) - pull * x[i];
}

// y = a b.
template <class T>
BISUP_SCALAR void product(const T* a, const T* b, int count, T* y) noexcept {
  for (int i = 0; i < count; ++i) y[i] = a[i] * b[i];
}

// sum += factor a b.
template <class T>
BISUP_SCALAR void add_product(const T* a, const T* b, int count, T factor, T* sum) noexcept {
  for (int i = 0; i < count; ++i) sum[i] += factor * (a[i] * b[i]);
}

template <class T>
BISUP_SCALAR T dot(const T* a, const T* b, int count) noexcept {
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
BISUP_SCALAR LogSum<T> log_sum(const T* x, int count) noexcept {
  LogSum<T> result{x[0], 0};
  for (int i = 1; i < count; ++i) result.largest = x[i] > result.largest ? x[i] : result.largest;
  for (int i = 0; i < count; ++i) result.sum += std::exp(x[i] - result.largest);
  return result;
}

// KL(p || q) of p = exp(teacher - p_log), q = exp(student - q_log), the logarithms of their sums
// known; gradient = factor (q - p), what it means for the student's logits.
template <class T>
BISUP_SCALAR T divergence(const T* teacher, const T* student, int count, T p_log, T q_log, T factor,
                          T* gradient) noexcept {
  T kl = 0;
  for (int i = 0; i < count; ++i) {
    const T lp = teacher[i] - p_log, lq = student[i] - q_log, p = std::exp(lp);
    kl += p * (lp - lq);
    gradient[i] = factor * (std::exp(lq) - p);
  }
  return kl;
}

}  // namespace bisup::scalar
