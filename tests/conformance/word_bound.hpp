// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far may a product of words be from the exact one?

#include <algorithm>
#include <cmath>

#include <bisup/kernel/word_gemm.hpp>

struct WordProduct {
  double exact = 0, bound = 0;
};

// Of two lines of `count` elements, given as functions of k. Each element x of a block is off by at
// most half its scale s, and a little more for the three roundings of s, 1 / s and the level; so a
// product is off by |x| t / 2 + |w| s / 2 + s t / 4. Then every block's sum is rounded to float,
// multiplied by a rounded product of scales and added: 2^-24 each.
template <class X, class W>
WordProduct word_product(int count, X&& x, W&& w) {
  using namespace bisup;
  constexpr double half = 0.5 * 1.001, roundoff = 0x1p-24;
  WordProduct p;
  double magnitude = 0;
  const auto scale_of = [](int first, int last, auto&& line) {
    double largest = 0;
    for (int k = first; k < last; ++k) largest = std::max(largest, std::fabs(double{line(k)}));
    return largest / double{product_levels};
  };
  for (int first = 0; first < count; first += word_block) {
    const int last = std::min(count, first + word_block);
    const double s = scale_of(first, last, x), t = scale_of(first, last, w);
    for (int k = first; k < last; ++k) {
      const double a = x(k), b = w(k);
      p.exact += a * b, magnitude += std::fabs(a * b);
      p.bound += half * (std::fabs(a) * t + std::fabs(b) * s) + half * half * s * t;
    }
  }
  const double blocks = (count + word_block - 1) / word_block;
  p.bound += (blocks + 8) * roundoff * (magnitude + p.bound);
  return p;
}
