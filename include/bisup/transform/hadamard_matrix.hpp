// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which Hadamard matrices are there, and what are their signs? Paley's two constructions over
// GF(q), computed when asked for; times a power of two by Sylvester's doubling. No tables.
// transform/hadamard.hpp applies them.

#include <bit>
#include <cstdint>
#include <optional>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/transform/galois_field.hpp>

namespace bisup {

enum class Paley : std::uint8_t { one, two };

// Which construction makes a matrix of this order: one: order = q + 1, q = 3 mod 4; two:
// order = 2 (q + 1), q = 1 mod 4; q an odd prime power.
[[nodiscard]] constexpr std::optional<Paley> paley_construction(int order) {
  if (order < 4 || order % 4 != 0) return std::nullopt;
  if (prime_power(order - 1)) return Paley::one;
  if ((order / 2 - 1) % 4 == 1 && prime_power(order / 2 - 1)) return Paley::two;
  return std::nullopt;
}

// order = signs * butterflies: a Paley matrix (or 1) times a Walsh-Hadamard matrix.
struct HadamardFactors {
  int signs = 1, butterflies = 1;
  friend constexpr bool operator==(const HadamardFactors&, const HadamardFactors&) = default;
};

// A bigger sign matrix would cost as much as the products whose input it rotates. The largest that
// published models need is 344.
inline constexpr int largest_sign_matrix = 1024;

// The factors with the smallest sign matrix, for its cost per value is its order.
[[nodiscard]] constexpr std::optional<HadamardFactors> hadamard_factors(int order) {
  if (order < 1) return std::nullopt;
  int signs = order >> std::countr_zero(static_cast<unsigned>(order));
  if (signs == 1) return HadamardFactors{1, order};
  for (; order % signs == 0 && signs <= largest_sign_matrix; signs *= 2) {
    if (paley_construction(signs)) return HadamardFactors{signs, order / signs};
  }
  return std::nullopt;
}

[[nodiscard]] constexpr bool hadamard_order_exists(int order) {
  return hadamard_factors(order).has_value();
}

// H with entries 1 and -1, H H^T = order I; not symmetric for Paley's first construction.
// Requires paley_construction(order).
[[nodiscard]] inline Matrix<std::int8_t> paley_matrix(int order) {
  const auto construction = paley_construction(order);
  BISUP_EXPECTS(construction.has_value());
  const bool first = *construction == Paley::one;
  const int n = first ? order : order / 2;
  const GaloisField field(n - 1);
  // C = [[0, 1], [-1 or 1, characters of differences]]: skew for q = 3 mod 4, else symmetric.
  const auto core = [&](int i, int j) {
    if (i == 0 || j == 0) return i == j ? 0 : first && j == 0 ? -1 : 1;
    return field.character(field.subtract(i - 1, j - 1));
  };
  Matrix<std::int8_t> h(order, order);
  for (int i = 0; i < order; ++i) {
    for (int j = 0; j < order; ++j) {
      if (first) {  // I + C
        h(i, j) = static_cast<std::int8_t>(core(i, j) + (i == j));
      } else {  // C (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]]
        const bool low = i % 2 == 1, right = j % 2 == 1;
        h(i, j) = static_cast<std::int8_t>(core(i / 2, j / 2) * (low && right ? -1 : 1) +
                                           (i / 2 == j / 2) * (low || right ? -1 : 1));
      }
    }
  }
  return h;
}

}  // namespace bisup
