// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bisup/quant/quantizer.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

std::vector<int> codes_of(const Format& format, const std::vector<float>& x, const Nearest& q,
                          GroupParameters& p) {
  std::vector<std::uint8_t> codes(x.size());
  p = q.quantize(format, x, codes);
  return {codes.begin(), codes.end()};
}

TEST_CASE("hand-computed groups") {
  GroupParameters p;
  const Format symmetric{.bits = 4, .scale = Scale::f32};
  // max 7, Q = 7: step 1; halves go to the even integer; stored code = value + 8
  CHECK(codes_of(symmetric, {7, -7, 0.5f, 1.5f, -2.5f, 0}, {}, p) ==
        std::vector<int>{15, 1, 8, 10, 6, 8});
  CHECK(p == GroupParameters{1.0f, 8});
  // clipped to half: step 0.5, -7 / 0.5 = -14 is held at -8
  CHECK(codes_of(symmetric, {7, -7, 1}, {.clip = {.high = 0.5f}}, p) ==
        std::vector<int>{15, 0, 10});
  const Format affine{.bits = 2, .zero = Zero::affine, .scale = Scale::f32};
  // -1 ... 2 in three steps of 1, zero point 1
  CHECK(codes_of(affine, {-1, 0, 1, 2}, {}, p) == std::vector<int>{0, 1, 2, 3});
  CHECK(p == GroupParameters{1.0f, 1});
  // one sign: 0 stays inside the range
  CHECK(codes_of(affine, {-3, -2, -1}, {}, p) == std::vector<int>{0, 1, 2});
  CHECK(p == GroupParameters{1.0f, 3});
}

TEST_CASE("a group of zeros has a scale and decodes to zero") {
  GroupParameters p;
  for (const Zero zero : {Zero::symmetric, Zero::affine}) {
    for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
      const Format format{.bits = bits, .zero = zero};
      const auto codes = codes_of(format, {0, 0, 0}, {}, p);
      CHECK(std::isnormal(p.scale));
      CHECK(decode(codes[1], p) == 0);
    }
  }
}

TEST_CASE("symmetric 8-bit codes leave out -128") {
  GroupParameters p;
  const Format format{.bits = 8, .scale = Scale::f32};
  const auto codes = codes_of(format, {-127, 100}, {.clip = {.high = 0.25f}}, p);
  CHECK(codes[0] == 1);
  CHECK(codes[1] == 255);
}

}  // namespace
