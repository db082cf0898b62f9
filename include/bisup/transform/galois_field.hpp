// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which elements of a finite field are squares? All that Paley's Hadamard matrices ask of GF(q),
// q = p^k; hadamard_matrix.hpp asks.

#include <cstddef>
#include <optional>
#include <vector>

#include <bisup/core/contract.hpp>

namespace bisup {

struct PrimePower {
  int prime = 0, exponent = 0;
  friend constexpr bool operator==(const PrimePower&, const PrimePower&) = default;
};

[[nodiscard]] constexpr std::optional<PrimePower> prime_power(int q) {
  if (q < 2) return std::nullopt;
  int prime = 2;
  while (q % prime != 0 && prime <= q / prime) ++prime;
  if (q % prime != 0) prime = q;
  int exponent = 0;
  for (; q % prime == 0; q /= prime) ++exponent;
  if (q != 1) return std::nullopt;
  return PrimePower{prime, exponent};
}

// Elements are the numbers 0 ... q - 1, whose digits to the base p are the coefficients of a
// polynomial modulo a primitive one: its root x runs through every element but zero, so an element
// is a square iff it is an even power of x. (In GF(p) itself x is a primitive root.)
class GaloisField {
 public:
  // Requires q to be the power of an odd prime.
  explicit GaloisField(int q) : q_(q), character_(static_cast<std::size_t>(q)) {
    const auto power = prime_power(q);
    BISUP_EXPECTS(power && power->prime > 2);
    p_ = power->prime;
    for (int reduction = 1; !fill(reduction); ++reduction) {
    }
  }

  [[nodiscard]] int size() const noexcept { return q_; }

  [[nodiscard]] int subtract(int a, int b) const {
    int difference = 0;
    for (int place = 1; place < q_; place *= p_) {
      difference += (a / place % p_ - b / place % p_ + p_) % p_ * place;
    }
    return difference;
  }

  // 1 for a square, -1 for none, 0 for zero.
  [[nodiscard]] int character(int a) const {
    BISUP_EXPECTS(a >= 0 && a < q_);
    return character_[static_cast<std::size_t>(a)];
  }

 private:
  // a x, where x^k = reduction.
  [[nodiscard]] int times_root(int a, int reduction) const {
    const int top = a / (q_ / p_), shifted = a % (q_ / p_) * p_;
    int product = 0;
    for (int place = 1; place < q_; place *= p_) {
      product += (shifted / place % p_ + top * (reduction / place % p_)) % p_ * place;
    }
    return product;
  }

  // Whether x^k = reduction makes x run through all q - 1 elements, whose characters it leaves.
  bool fill(int reduction) {
    int element = 1;
    for (int exponent = 0; exponent < q_ - 1; ++exponent) {
      if (element == 0 || (exponent > 0 && element == 1)) return false;
      character_[static_cast<std::size_t>(element)] = exponent % 2 == 0 ? 1 : -1;
      element = times_root(element, reduction);
    }
    return element == 1;
  }

  int q_, p_ = 0;
  std::vector<signed char> character_;
};

}  // namespace bisup
