// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a parameter follow its gradient? AdamW (Loshchilov and Hutter 2019): moving means of the
// gradient and its square, corrected for their start at zero; decay apart from the gradient.

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>

namespace bisup::tune {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0;
  friend constexpr bool operator==(const AdamWOptions&, const AdamWOptions&) = default;
};

// The state of one run of parameters.
template <class T>
class AdamW {
 public:
  void step(std::span<T> values, std::span<const T> gradients, double rate,
            const AdamWOptions& options, double gradient_scale = 1) {
    BISUP_EXPECTS(values.size() == gradients.size());
    if (first_.size() != values.size()) reset(values.size());
    ++steps_;
    const T b1 = static_cast<T>(options.beta1), b2 = static_cast<T>(options.beta2);
    const T scale = static_cast<T>(gradient_scale), epsilon = static_cast<T>(options.epsilon);
    const T kept = static_cast<T>(1 - rate * options.decay);
    const T step_size = static_cast<T>(rate / (1 - std::pow(options.beta1, steps_)));
    const T root = static_cast<T>(1 / std::sqrt(1 - std::pow(options.beta2, steps_)));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const T g = scale * gradients[i];
      first_[i] = b1 * first_[i] + (1 - b1) * g;
      second_[i] = b2 * second_[i] + (1 - b2) * g * g;
      values[i] =
          kept * values[i] - step_size * first_[i] / (std::sqrt(second_[i]) * root + epsilon);
    }
  }

  // What it remembers; empty before the first step.
  [[nodiscard]] std::span<const T> first() const noexcept { return first_; }
  [[nodiscard]] std::span<const T> second() const noexcept { return second_; }
  [[nodiscard]] int steps() const noexcept { return steps_; }
  // Goes on as one that remembers this.
  void resume(std::span<const T> first, std::span<const T> second, int steps) {
    BISUP_EXPECTS(first.size() == second.size());
    first_.assign(first.begin(), first.end()), second_.assign(second.begin(), second.end());
    steps_ = steps;
  }

  // Forgets the past; memory for `count` parameters.
  void reset(std::size_t count) {
    first_.assign(count, T(0)), second_.assign(count, T(0));
    steps_ = 0;
  }

 private:
  std::vector<T> first_, second_;
  int steps_ = 0;
};

}  // namespace bisup::tune
