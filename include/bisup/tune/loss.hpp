// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far is what a block gives from what it should give? Squared error over the tokens that count,
// divided by the target's power, and the distance of per-channel moments; with gradients.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup::tune {

// Tokens that never enter a loss: the first without a stored prompt, which nothing comes before,
// and (skip_largest) those of the largest mean |target|, whose few huge channels would drown the
// rest.
struct SkippedTokens {
  bool first = true;
  int largest = 0;
  friend constexpr bool operator==(const SkippedTokens&, const SkippedTokens&) = default;
};

// 1 for tokens that count, 0 for others.
template <class T>
[[nodiscard]] std::vector<char> counted_tokens(MatrixRef<const T> target,
                                               const SkippedTokens& skipped) {
  std::vector<char> counted(static_cast<std::size_t>(target.rows()), 1);
  if (skipped.first && !counted.empty()) counted[0] = 0;
  if (skipped.largest <= 0) return counted;
  std::vector<double> size(counted.size());
  for (int t = 0; t < target.rows(); ++t) {
    for (const T x : target.row(t))
      size[static_cast<std::size_t>(t)] += std::abs(static_cast<double>(x));
  }
  std::vector<int> order(counted.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return size[static_cast<std::size_t>(a)] > size[static_cast<std::size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<std::size_t>(skipped.largest)));
  for (const int t : order) counted[static_cast<std::size_t>(t)] = 0;
  return counted;
}

// Sum of squares over the tokens that count.
template <class T>
[[nodiscard]] double power(MatrixRef<const T> x, std::span<const char> counted) {
  double sum = 0;
  for (int t = 0; t < x.rows(); ++t) {
    if (!counted[static_cast<std::size_t>(t)]) continue;
    for (const T v : x.row(t)) sum += static_cast<double>(v) * static_cast<double>(v);
  }
  return sum;
}

// |y - target|^2 over the tokens that count; adds factor times its gradient to g, unless g is
// empty.
template <class T>
double squared_error(MatrixRef<const T> y, MatrixRef<const T> target, std::span<const char> counted,
                     double factor, MatrixRef<T> g, ThreadPool& pool) {
  BISUP_EXPECTS(y.rows() == target.rows() && y.cols() == target.cols());
  std::vector<double> of_token(static_cast<std::size_t>(y.rows()));
  const T twice = static_cast<T>(2 * factor);
  detail::over_rows(y.rows(), y.cols(), pool, [&](int t) {
    if (!counted[static_cast<std::size_t>(t)]) return;
    const T* const a = y.row_data(t);
    const T* const b = target.row_data(t);
    double sum = 0;
    for (int c = 0; c < y.cols(); ++c) {
      const T d = a[c] - b[c];
      sum += static_cast<double>(d) * static_cast<double>(d);
      if (!g.empty()) g(t, c) += twice * d;
    }
    of_token[static_cast<std::size_t>(t)] = sum;
  });
  return std::accumulate(of_token.begin(), of_token.end(), 0.0);
}

// Sum over channels of (mean - mean of target)^2 + (deviation - that of target)^2, divided by the
// same of the target alone; adds factor times its gradient to g, unless g is empty.
template <class T>
double moment_distance(MatrixRef<const T> y, MatrixRef<const T> target,
                       std::span<const char> counted, double factor, MatrixRef<T> g) {
  BISUP_EXPECTS(y.rows() == target.rows() && y.cols() == target.cols());
  struct Moments {
    double mean = 0, deviation = 0;
  };
  const double n = std::max<double>(1, std::accumulate(counted.begin(), counted.end(), 0));
  const auto moments = [&](MatrixRef<const T> x) {
    std::vector<Moments> m(static_cast<std::size_t>(x.cols()));
    for (const bool second : {false, true}) {
      for (int t = 0; t < x.rows(); ++t) {
        if (!counted[static_cast<std::size_t>(t)]) continue;
        for (int c = 0; c < x.cols(); ++c) {
          Moments& of = m[static_cast<std::size_t>(c)];
          const double v = static_cast<double>(x(t, c));
          if (second) of.deviation += (v - of.mean) * (v - of.mean) / n;
          if (!second) of.mean += v / n;
        }
      }
    }
    for (Moments& of : m) of.deviation = std::sqrt(of.deviation);
    return m;
  };
  const auto ours = moments(y), theirs = moments(target);
  double distance = 0, scale = 0;
  for (std::size_t c = 0; c < ours.size(); ++c) {
    distance += std::pow(ours[c].mean - theirs[c].mean, 2) +
                std::pow(ours[c].deviation - theirs[c].deviation, 2);
    scale += std::pow(theirs[c].mean, 2) + std::pow(theirs[c].deviation, 2);
  }
  if (scale <= 0) return 0;
  for (int t = 0; t < y.rows() && !g.empty(); ++t) {
    if (!counted[static_cast<std::size_t>(t)]) continue;
    for (int c = 0; c < y.cols(); ++c) {
      const Moments& a = ours[static_cast<std::size_t>(c)];
      const Moments& b = theirs[static_cast<std::size_t>(c)];
      double d = a.mean - b.mean;
      if (a.deviation > 0) {
        d += (a.deviation - b.deviation) * (static_cast<double>(y(t, c)) - a.mean) / a.deviation;
      }
      g(t, c) += static_cast<T>(factor * 2 / (n * scale) * d);
    }
  }
  return distance / scale;
}

}  // namespace bisup::tune
