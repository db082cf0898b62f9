// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/contract.hpp>
#include <bisup/transform/galois_field.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

static_assert(prime_power(2) == PrimePower{2, 1} && prime_power(343) == PrimePower{7, 3});
static_assert(prime_power(25) == PrimePower{5, 2} && prime_power(8191) == PrimePower{8191, 1});
static_assert(!prime_power(1) && !prime_power(0) && !prime_power(-7) && !prime_power(171));
static_assert(!prime_power(85) && !prime_power(12));

TEST_CASE("squares modulo a prime are those that squaring finds") {
  for (const int p : {3, 5, 7, 11, 13, 43, 61, 139}) {
    const GaloisField field(p);
    REQUIRE(field.size() == p);
    for (int a = 0; a < p; ++a) {
      int character = a == 0 ? 0 : -1;
      for (int b = 1; b < p; ++b) {
        if (b * b % p == a) character = 1;
      }
      REQUIRE(field.character(a) == character);
      for (int b = 0; b < p; ++b) REQUIRE(field.subtract(a, b) == (a - b + p) % p);
    }
  }
}

// What makes Paley's matrices orthogonal, in any field: the characters of all elements and of all
// shifted by the same d have the product sum -1.
TEST_CASE("the characters of every field are Jacobsthal's") {
  for (const int q : {9, 25, 27, 49, 81, 125, 169, 343}) {
    CAPTURE(q);
    const GaloisField field(q);
    int sum = 0;
    for (int a = 0; a < q; ++a) sum += field.character(a);
    REQUIRE(sum == 0);
    REQUIRE(field.character(field.subtract(0, 1)) == (q % 4 == 1 ? 1 : -1));
    for (int d = 1; d < q; ++d) {
      int product = 0;
      for (int a = 0; a < q; ++a)
        product += field.character(a) * field.character(field.subtract(a, d));
      REQUIRE(product == -1);
    }
  }
}

TEST_CASE("what is no odd prime power has no field here") {
  CHECK_THROWS_AS(GaloisField(171), ContractViolation);
  CHECK_THROWS_AS(GaloisField(8), ContractViolation);
  CHECK_THROWS_AS(GaloisField(7).character(7), ContractViolation);
}

}  // namespace
