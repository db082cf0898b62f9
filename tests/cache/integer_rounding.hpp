// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How much may the result of attention move because the kernel multiplies integers of two bytes
// (kernel/attention_tile.hpp)? Not at all where it does not.

#include <bisup/kernel/attention.hpp>
#include <cmath>

namespace bisup_test {

// query, value: the largest magnitudes; key: the root of the mean square of its numbers, at most.
inline double integer_rounding(int dim, double query, double key, double value) {
  if (bisup::attention_kernels().query_bytes == nullptr) return 0;
  const double half_step = 0.51 / bisup::two_byte_levels;
  // Half a step of the query in each of dim products, divided by the root of dim.
  const double score = half_step * query * key * std::sqrt(dim);
  // A weight errs by that of itself and so does their sum; then each of a tile's keys by half a step
  // of the largest, whose range may be twice the largest value.
  return value * (2 * score + 2 * bisup::kv_tile * half_step);
}

}  // namespace bisup_test
