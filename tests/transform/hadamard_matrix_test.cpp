// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/transform/hadamard_matrix.hpp>
#include <cstdlib>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

// The sizes of published models: hidden, number of heads, intermediate.
constexpr bool is(int order, int signs, int butterflies) {
  return hadamard_factors(order) == HadamardFactors{signs, butterflies};
}
static_assert(is(1, 1, 1) && is(2, 1, 2) && is(4096, 1, 4096) && is(64, 1, 64));
static_assert(is(5120, 20, 256) && is(40, 20, 2) && is(6656, 52, 128) && is(52, 52, 1));
static_assert(is(11008, 344, 32) && is(5504, 344, 16) && is(22016, 344, 64) && is(19968, 312, 64));
static_assert(is(13824, 108, 128) && is(6912, 108, 64) && is(17920, 140, 128) && is(8960, 140, 64));
static_assert(is(28672, 28, 1024) && is(14336, 28, 512) && is(3584, 28, 128) && is(896, 28, 32));
static_assert(is(2816, 44, 64) && is(5632, 44, 128) && is(4864, 76, 64) && is(18944, 148, 128));
static_assert(is(576, 36, 16) && is(960, 60, 16) && is(1536, 12, 128) && is(2560, 20, 128));
static_assert(!hadamard_order_exists(13696) && !hadamard_order_exists(27392));
static_assert(!hadamard_order_exists(9) && !hadamard_order_exists(14) &&
              !hadamard_order_exists(15));
static_assert(!hadamard_order_exists(0) && !hadamard_order_exists(-4) && !hadamard_order_exists(6));
static_assert(hadamard_order_exists(1020) && !hadamard_order_exists(4 * 1021));  // 509; too large

TEST_CASE("H times its transpose is n times the identity, for every order below 400") {
  int found = 0;
  for (int n = 4; n < 400; n += 4) {
    if (!paley_construction(n)) continue;
    ++found;
    CAPTURE(n);
    const auto h = paley_matrix(n);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j <= i; ++j) {
        int product = 0;
        for (int k = 0; k < n; ++k) product += h(i, k) * h(j, k);
        if (product != (i == j ? n : 0) || std::abs(h(i, j)) != 1) FAIL(i << ", " << j);
      }
    }
  }
  CHECK(found >= 50);
  for (const int n : {12, 20, 28, 36, 44, 52, 60, 76, 84, 100, 104, 108, 124, 140, 148, 312, 344}) {
    CHECK(paley_construction(n).has_value());
  }
  for (const int n : {92, 116, 156, 172, 428}) CHECK_FALSE(paley_construction(n).has_value());
}

TEST_CASE("an order without a construction is refused") {
  CHECK_THROWS_AS(paley_matrix(172), ContractViolation);
  CHECK_THROWS_AS(paley_matrix(2), ContractViolation);
}

}  // namespace
