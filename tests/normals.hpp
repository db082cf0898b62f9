// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Random matrices that several tests begin with.

#include <cstdint>

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

}  // namespace bisup::test
