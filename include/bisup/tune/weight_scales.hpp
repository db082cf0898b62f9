// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What may rounded weights learn without being rounded again? Their scales: codes stay, and each
// group of a row gets the step that serves the output best, which is fine-grained clipping with the
// rounding behind it and costs no bits. A scale is learned as the logarithm of what it is
// multiplied by; a rate is said in steps of the grid, so that one rate serves all bits.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/arithmetic.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup::tune {

// The scales of linears whose weights are codes, as they are; before a gradient is cleared for the
// block.
template <class T>
void begin_scales(SimulatedBlock<T>& block) {
  for (SimulatedLinear<T>& linear : block.linears) {
    if (!linear.codes) continue;
    linear.log_scale.resize(linear.out(), linear.codes->groups(linear.in()));
    for (int r = 0; r < linear.out(); ++r) std::ranges::fill(linear.log_scale.row(r), T(0));
  }
}

// As the groups of parameter_group.hpp, but `rate` is how many steps of its grid the largest code
// may move in one step of learning. Its spread() multiplies the weights by what a step changed;
// they drift from codes times scales by one rounding a step, which renew() takes back where the
// linears know their codes.
template <class T>
ParameterGroup<T> weight_scales(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                                double rate, ThreadPool& pool) {
  ParameterGroup<T> group{.name = "weight scales",
                          .rate = rate * grid_step(block),
                          .wanted = {.weight_scales = true},
                          .changes_weights = true};
  struct Held {
    SimulatedLinear<T>* linear;
    Matrix<T> log_scale;  // which the weights hold already
  };
  const auto all = std::make_shared<std::vector<Held>>();
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    SimulatedLinear<T>& linear = block.linears[i];
    if (!linear.codes || linear.log_scale.rows() == 0) continue;
    group.add(linear.log_scale, gradient.linears[i].log_scale);
    all->push_back({&linear, linear.log_scale.clone()});
  }
  group.spread = [all, &pool] {
    for (Held& held : *all) {
      SimulatedLinear<T>& linear = *held.linear;
      detail::over_rows(linear.out(), linear.in(), pool, [&](int r) {
        const auto weights = linear.weights.row(r);
        for (int g = 0; g < linear.log_scale.cols(); ++g) {
          const T factor = std::exp(linear.log_scale(r, g) - held.log_scale(r, g));
          if (factor == 1) continue;
          const auto [begin, end] = linear.codes->group(g, linear.in());
          for (int c = begin; c < end; ++c) weights[static_cast<std::size_t>(c)] *= factor;
        }
        std::ranges::copy(linear.log_scale.row(r), held.log_scale.row(r).begin());
      });
    }
  };
  group.renew = [all, spread = group.spread, &pool] {
    for (Held& held : *all) {
      if (!held.linear->stored) continue;
      held.linear->stored(held.linear->weights.ref(), pool);
      for (int r = 0; r < held.log_scale.rows(); ++r)
        std::ranges::fill(held.log_scale.row(r), T(0));
    }
    spread();
  };
  return group;
}

}  // namespace bisup::tune
