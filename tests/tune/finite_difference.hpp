// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is the derivative of a function that follows a rounding tape? Five points around, the tape
// replayed at each.

#include <bisup/core/matrix.hpp>
#include <bisup/core/random.hpp>
#include <bisup/tune/rounding_tape.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

namespace difference {

// h = 1e-4: the formula leaves h^4 / 30 of the fifth derivative, 3e-18 of it, and rounding
// 1.5 * 2^-53 / h = 2e-12 of the function, whose values (up to 1e3 here) themselves are sums of
// some hundred roundings: below 1e-8, and a wrong term is not. Steps are small lest another element
// become the extreme of its group on the way, which the tape does not freeze.
inline constexpr double step = 1e-4, allowed = 1e-8;

// d f / d x while `tape` replays what it recorded with x as it is.
template <class F>
double derivative(bisup::tune::RoundingTape& tape, double& x, F&& f) {
  const double middle = x;
  const auto at = [&](double shift) {
    x = middle + shift;
    tape.replay();
    const bisup::tune::UsingTape use(tape);
    return f();
  };
  const double near = at(step) - at(-step), far = at(2 * step) - at(-2 * step);
  x = middle;
  return (8 * near - far) / (12 * step);
}

// f(), recorded.
template <class F>
double recorded(bisup::tune::RoundingTape& tape, F&& f) {
  tape.record();
  const bisup::tune::UsingTape use(tape);
  return f();
}

inline bool close(double gradient, double expected, double scale) {
  return std::fabs(gradient - expected) <= allowed * std::max(std::fabs(expected), scale);
}

inline bisup::Matrix<double> normals(int rows, int cols, double deviation, std::uint64_t seed) {
  bisup::Matrix<double> m(rows, cols);
  bisup::Random random(seed);
  for (int r = 0; r < rows; ++r) {
    for (double& x : m.row(r)) x = deviation * random.normal();
  }
  return m;
}

}  // namespace difference
