// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How fast does each step learn? A linear warm-up, then half a cosine down to a share of the rate.

#include <algorithm>
#include <cmath>
#include <numbers>

#include <bisup/core/contract.hpp>

namespace bisup::tune {

struct Schedule {
  double warm_up = 0.05;  // share of the steps
  double last = 0.05;     // share of the rate at the last step
  friend constexpr bool operator==(const Schedule&, const Schedule&) = default;

  // What the learning rate is multiplied by at step 0 ... steps - 1.
  [[nodiscard]] double at(int step, int steps) const {
    BISUP_EXPECTS(step >= 0 && step < steps);
    const int rising = static_cast<int>(std::ceil(warm_up * steps));
    if (step < rising) return static_cast<double>(step + 1) / rising;
    const double progress = static_cast<double>(step - rising) / std::max(1, steps - 1 - rising);
    return last + (1 - last) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  }
};

}  // namespace bisup::tune
