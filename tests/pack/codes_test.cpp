// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/pack/codes.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>

using namespace bisup;

namespace {

std::vector<float> normal_numbers(std::uint64_t seed, std::size_t count) {
  Random random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

template <class Check>
void for_every_format(Check&& check) {
  for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      for (const Scale scale : {Scale::f32, Scale::f16, Scale::bf16}) {
        CAPTURE(bits, static_cast<int>(zero), static_cast<int>(scale));
        check(Format{bits, 128, zero, scale});
      }
    }
  }
}

}  // namespace

TEST_CASE("a number comes back within the bound its format promises") {
  for_every_format([](const Format& format) {
    double squares = 0, expected = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const std::vector<float> x = normal_numbers(seed, 128);
      const GroupParameters p = fit(format, x);
      const float inverse = 1.0f / p.scale;
      for (const float v : x) {
        const int code = encode(format, v, inverse, p.zero);
        REQUIRE(code >= format.smallest_used() - format.lowest());
        REQUIRE(code < 1 << format.bits);
        const double error = static_cast<double>(v) - decode(code, p);
        REQUIRE(std::fabs(error) <= rounding_bound(format, p));
        squares += error * error;
        expected += static_cast<double>(p.scale) * p.scale / 12;  // variance of a uniform error
      }
    }
    // A tenth of the theory's RMSE: an error that small means the test compares a buffer with itself.
    REQUIRE(std::sqrt(squares) >= 0.1 * std::sqrt(expected));
  });
}

TEST_CASE("zero comes back as zero, and encoding what was decoded changes nothing") {
  for_every_format([](const Format& format) {
    const std::vector<float> x = normal_numbers(3, 64);
    const GroupParameters p = fit(format, x);
    REQUIRE(decode(encode(format, 0.0f, 1.0f / p.scale, p.zero), p) == 0.0f);
    for (int code = format.smallest_used() - format.lowest(); code < 1 << format.bits; ++code) {
      REQUIRE(encode(format, decode(code, p), 1.0f / p.scale, p.zero) == code);
    }
  });
}

TEST_CASE("a group of zeros has a scale, and one sign alone keeps zero in its range") {
  for_every_format([](const Format& format) {
    const std::vector<float> none(32, 0.0f), positive(32, 3.0f), negative(32, -3.0f);
    const GroupParameters zeros = fit(format, none);
    REQUIRE(zeros.scale > 0);
    REQUIRE(std::isfinite(1.0f / zeros.scale));
    for (const auto& x : {positive, negative}) {
      const GroupParameters p = fit(format, x);
      REQUIRE(p.zero >= 0);
      REQUIRE(p.zero < 1 << format.bits);
      const double error = x[0] - decode(encode(format, x[0], 1.0f / p.scale, p.zero), p);
      REQUIRE(std::fabs(error) <= rounding_bound(format, p));
    }
  });
}

TEST_CASE("clipping moves the extremes to the ends of the range and nothing else") {
  const Format format{4, 32, Zero::symmetric, Scale::f32};
  const std::vector<float> x = {-10.0f, -4.0f, 0.0f, 1.0f, 4.9f, 10.0f};
  const GroupParameters p = fit(format, x, {.high = 0.5f});
  REQUIRE(p.scale == 5.0f / 7.0f);
  std::vector<std::uint8_t> codes(x.size());
  encode_group(format, x, p, codes);
  REQUIRE(codes.front() == 0);  // -8 steps: one more than the range has above zero
  REQUIRE(codes.back() == 15);
  for (std::size_t i = 1; i + 1 < x.size(); ++i) {
    REQUIRE(std::fabs(static_cast<double>(x[i]) - decode(codes[i], p)) <= rounding_bound(format, p));
  }
}

TEST_CASE("what is no number, or out of range, still gets a code") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for_every_format([](const Format& format) {
    const int zero = format.affine() ? 1 : -format.lowest();
    const int lowest = format.smallest_used() - format.lowest();
    REQUIRE(encode(format, std::numeric_limits<float>::quiet_NaN(), 1.0f, zero) == lowest);
    REQUIRE(encode(format, -infinity, 1.0f, zero) == lowest);
    REQUIRE(encode(format, infinity, 1.0f, zero) == (1 << format.bits) - 1);
    REQUIRE(encode(format, 1e30f, 1e30f, zero) == (1 << format.bits) - 1);
  });
}
