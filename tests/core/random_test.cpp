// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>

#include <array>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

using Four = std::array<std::uint32_t, 4>;

// Philox-4x32-10 as section 4.3 of the paper draws it: L and R halves of two Feistel pairs.
Four philox(Four counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const auto [r0, l0, r1, l1] = counter;
    const std::uint64_t left = std::uint64_t{r0} * 0xD2511F53u,
                        right = std::uint64_t{r1} * 0xCD9E8D57u;
    counter = {
        static_cast<std::uint32_t>(right >> 32) ^ key[0] ^ l0, static_cast<std::uint32_t>(right),
        static_cast<std::uint32_t>(left >> 32) ^ key[1] ^ l1, static_cast<std::uint32_t>(left)};
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  return counter;
}

TEST_CASE("the generator is Philox-4x32-10") {
  // Known answers of the Random123 distribution.
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  CHECK(philox({ones, ones, ones, ones}, {ones, ones}) ==
        Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

  const std::uint64_t seed = 0x0123456789abcdefu, stream = 0xfedcba9876543210u;
  Random zero(0), random(seed, stream);
  for (std::uint32_t block = 0; block < 100; ++block) {
    for (const std::uint32_t wanted : philox({block, 0, 0, 0}, {0, 0}))
      CHECK(zero.bits() == wanted);
    for (const std::uint32_t wanted :
         philox({block, 0, 0x76543210u, 0xfedcba98u}, {0x89abcdefu, 0x01234567u})) {
      CHECK(random.bits() == wanted);
    }
  }
}

TEST_CASE("seeds and streams differ, equal ones agree") {
  Random a(1, 2), same(1, 2), stream(1, 3), seed(2, 2);
  const auto first = a.bits64();
  CHECK(first == same.bits64());
  CHECK(first != stream.bits64());
  CHECK(first != seed.bits64());
}

TEST_CASE("below is unbiased where a plain multiplication is not") {
  // Multiply and shift alone would hit the residue 0 of 3 twice as often as the others.
  const std::uint32_t bound = 3u << 30;
  const int draws = 30000;
  std::array<int, 3> counts{};
  Random random(5);
  for (int i = 0; i < draws; ++i) {
    const std::uint32_t value = random.below(bound);
    REQUIRE(value < bound);
    ++counts[value % 3];
  }
  const double sigma = std::sqrt(draws * (1.0 / 3) * (2.0 / 3));
  for (const int count : counts) CHECK(std::abs(count - draws / 3.0) < 5 * sigma);  // 5 sigma: 6e-7
  CHECK(random.below(1) == 0);
}

TEST_CASE("uniform and normal numbers have the moments of their distributions") {
  const int draws = 100000;
  Random random(11);
  double sum = 0, square = 0, normal_sum = 0, normal_square = 0, normal_fourth = 0;
  for (int i = 0; i < draws; ++i) {
    const double u = random.uniform(), z = random.normal();
    REQUIRE((u >= 0 && u < 1));
    sum += u, square += u * u;
    normal_sum += z, normal_square += z * z, normal_fourth += z * z * z * z;
  }
  const double root = std::sqrt(draws);
  // Five standard errors; variances: u 1/12, u^2 4/45, z 1, z^2 2, z^4 105 - 9 = 96.
  CHECK(std::abs(sum / draws - 1.0 / 2) < 5 * std::sqrt(1.0 / 12) / root);
  CHECK(std::abs(square / draws - 1.0 / 3) < 5 * std::sqrt(4.0 / 45) / root);
  CHECK(std::abs(normal_sum / draws) < 5 / root);
  CHECK(std::abs(normal_square / draws - 1) < 5 * std::sqrt(2.0) / root);
  CHECK(std::abs(normal_fourth / draws - 3) < 5 * std::sqrt(96.0) / root);
}

}  // namespace
