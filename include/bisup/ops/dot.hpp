// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is the inner product of two rows? For the few that no matrix product covers.

#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

#include <bisup/core/contract.hpp>

namespace bisup {

// In sixteen sums, which compilers turn into vector instructions and which round less than one.
template <class T = float>
[[nodiscard]] double dot(std::span<const std::type_identity_t<T>> x,
                         std::span<const std::type_identity_t<T>> y) {
  BISUP_EXPECTS(x.size() == y.size());
  std::array<T, 16> sums = {};
  std::size_t i = 0;
  for (; i + 16 <= x.size(); i += 16) {
    for (std::size_t j = 0; j < 16; ++j) sums[j] += x[i + j] * y[i + j];
  }
  double sum = 0;
  for (const T s : sums) sum += static_cast<double>(s);
  for (; i < x.size(); ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return sum;
}

}  // namespace bisup
