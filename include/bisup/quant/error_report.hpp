// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far is a quantized matrix from the original? Four measures, because each sees a different
// failure, beside the error that the format promises.

#include <algorithm>
#include <cmath>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

struct ErrorReport {
  double largest = 0;           // max |x - x^|
  double root_mean_square = 0;  // sqrt(mean (x - x^)^2)
  double relative = 0;          // |x - x^|^2 / |x|^2
  double weighted = 0;  // sum h (x - x^)^2 / sum h x^2, h = mean square of the column's input
  long sign_flips = 0;  // x and x^ have opposite signs
};

// `input_power`: E[x_j^2] of each column's input, or empty for equal weights.
[[nodiscard]] inline ErrorReport error_report(MatrixRef<const float> original,
                                              MatrixRef<const float> quantized,
                                              std::span<const float> input_power = {}) {
  BISUP_EXPECTS(original.rows() == quantized.rows() && original.cols() == quantized.cols());
  BISUP_EXPECTS(input_power.empty() || static_cast<int>(input_power.size()) == original.cols());
  ErrorReport report;
  double squares = 0, power = 0, weighted = 0, weighted_power = 0;
  for (int r = 0; r < original.rows(); ++r) {
    for (int c = 0; c < original.cols(); ++c) {
      const double x = original(r, c), d = x - quantized(r, c);
      const double h = input_power.empty() ? 1.0 : input_power[static_cast<std::size_t>(c)];
      report.largest = std::max(report.largest, std::abs(d));
      report.sign_flips += x * quantized(r, c) < 0 ? 1 : 0;
      squares += d * d, power += x * x, weighted += h * d * d, weighted_power += h * x * x;
    }
  }
  const double count = static_cast<double>(original.rows()) * original.cols();
  if (count > 0) report.root_mean_square = std::sqrt(squares / count);
  if (power > 0) report.relative = squares / power;
  if (weighted_power > 0) report.weighted = weighted / weighted_power;
  return report;
}

}  // namespace bisup
