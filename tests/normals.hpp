// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Random numbers that several tests begin with.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/random.hpp>

namespace bisup::test {

// Standard normal values, row by row.
inline Matrix<float> normals(int rows, int cols, std::uint64_t seed) {
  Random random(seed);
  Matrix<float> m(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (float& x : m.row(r)) x = static_cast<float>(random.normal());
  }
  return m;
}

inline std::vector<float> normal_values(int count, std::uint64_t seed, double deviation = 1) {
  Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& x : values) x = static_cast<float>(deviation * random.normal());
  return values;
}

}  // namespace bisup::test
