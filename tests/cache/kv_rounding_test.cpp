// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// The codes themselves are compared with a plain cache's in kv_cache_test.cpp.
#include <bisup/cache/kv_rounding.hpp>
#include <bisup/core/random.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

struct Errors {
  double square = 0, along = 0;  // sum (x - y)^2 / sum x^2, and sum x y / sum x^2
};

Errors errors_of(const Format& format, bool fit, bool lengthen) {
  Errors sum;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const auto x = test::normal_values(64, seed);
    const GroupParameters p = rounding_parameters(format, x, {}, fit);
    std::vector<std::uint8_t> codes(x.size());
    encode_group(format, x, p, codes);
    const float scale = reading_scale(format, x, p, lengthen);
    double square = 0, error = 0, product = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double v = x[i], y = decode(codes[i], {scale, p.zero});
      square += v * v, error += (v - y) * (v - y), product += v * y;
    }
    sum.square += error / square / 50, sum.along += product / square / 50;
  }
  return sum;
}

TEST_CASE("a fitted scale errs less than one from the extremes, in few bits much less") {
  for (const Zero zero : {Zero::affine, Zero::symmetric}) {
    double gain = 0;
    for (const int bits : {8, 4, 3, 2}) {
      const Format format = KvFormat{bits, 0, zero}.format();
      const double before = errors_of(format, false, false).square,
                   after = errors_of(format, true, false).square;
      CHECK(after <= before);
      CHECK(before / after >= gain);
      gain = before / after;
    }
    CHECK(gain > 1.5);
  }
  // The least that 4 levels can do on normal numbers is 0.1175 (Max 1960); 64 numbers at a time may
  // suit their own scale better than that, one that is shared by all cannot.
  CHECK(errors_of(KvFormat{2, 0}.format(), true, false).square < 0.16);
  CHECK(errors_of(KvFormat{2, 0}.format(), true, false).square > 0.08);
}

TEST_CASE("what is lengthened has no bias along itself") {
  for (const int bits : {2, 3, 4}) {
    const Format format = KvFormat{bits, 0}.format();
    // A scale in f16 is off by 2^-11 at most.
    CHECK(std::abs(errors_of(format, true, true).along - 1) < 0x1p-11);
    if (bits < 4) CHECK(errors_of(format, true, false).along < 1 - 4 * 0x1p-11);
  }
}

TEST_CASE("groups of zeros, of one sign and of one number are fitted too") {
  const Format format = KvFormat{3, 0}.format();
  for (const auto& x : {std::vector<float>(8, 0.0f), std::vector<float>(8, 3.0f),
                        std::vector<float>{-1, -2, -3, -4}, std::vector<float>{5}}) {
    const GroupParameters p = rounding_parameters(format, x, {}, true);
    CHECK(p.scale > 0);
    CHECK((p.zero >= 0 && p.zero <= 7));
    const float scale = reading_scale(format, x, p, true);
    CHECK((scale >= p.scale && scale <= 2.001f * p.scale));
  }
}

}  // namespace
