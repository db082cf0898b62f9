// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does rounding inputs leave behind in the mean? Few levels cut tails off and send small
// values to zero, so outputs miss a constant as well as what varies. A learned bias puts it back;
// it is said in norms of its row, what an input of 1 along the weights would give, so that one rate
// serves all linears; and less is left behind where levels are more, so that a rate is said in
// steps of the weights' grid.

#include <cmath>
#include <cstddef>
#include <span>

#include <bisup/core/matrix.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup::tune {

// The biases as they are, zeros where there are none; before a gradient is cleared for the block.
template <class T>
void begin_biases(SimulatedBlock<T>& block) {
  for (SimulatedLinear<T>& linear : block.linears) {
    const auto out = static_cast<std::size_t>(linear.out());
    linear.shift.assign(out, T(0)), linear.shift_unit.assign(out, T(0));
    for (int r = 0; r < linear.out(); ++r) {
      const auto row = linear.weights.row(r);
      const T squares = gradient_kernels<T>().dot(row.data(), row.data(), linear.in());
      linear.shift_unit[static_cast<std::size_t>(r)] = std::sqrt(squares);
    }
  }
}

// As the groups of parameter_group.hpp; `rate` is in norms of the rows and steps of the grid.
template <class T>
ParameterGroup<T> biases(SimulatedBlock<T>& block, const BlockGradient<T>& gradient, double rate) {
  ParameterGroup<T> group{
      .name = "biases", .rate = rate * grid_step(block), .wanted = {.biases = true}};
  for (std::size_t i = 0; i < block.linears.size(); ++i)
    group.add(std::span<T>(block.linears[i].shift), std::span<const T>(gradient.linears[i].shift));
  return group;
}

}  // namespace bisup::tune
