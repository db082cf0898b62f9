// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/quant/error_report.hpp>
#include <bisup/quant/nearest.hpp>
#include <cmath>
#include <limits>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Matrix<float> gaussian(int rows, int cols, std::uint64_t seed) {
  Matrix<float> w(rows, cols);
  Random random(seed);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) w(r, c) = static_cast<float>(random.normal());
  }
  return w;
}

Matrix<float> decoded(const AnyPackedTensor& packed) {
  Matrix<float> w(packed.rows(), packed.cols());
  const PackedPanels& p = packed.panels();
  with_bits(packed.format().bits, [&]<int Bits>() {
    for (int r = 0; r < w.rows(); ++r) {
      for (int c = 0; c < w.cols(); ++c) {
        const int u = load_code<Bits, panel16>(p.codes + p.shape.tile_offset(r, c), r % 16, c % 32);
        const int g = c / p.shape.group_codes();
        w(r, c) = p.scale(r, g) * static_cast<float>(u - p.zero(r, g));
      }
    }
  });
  return w;
}

TEST_CASE("every weight is within half a step of what it was, and no closer than theory says") {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {0, 32, 64, 128}) {
      for (const Zero zero : {Zero::symmetric, Zero::affine}) {
        for (const Scale scale : {Scale::f16, Scale::bf16, Scale::f32}) {
          const Format format{.bits = bits, .group = group, .zero = zero, .scale = scale};
          const auto w =
              gaussian(19, 172, static_cast<std::uint64_t>(bits));  // 172: a short last group
          const auto packed = quantize(w.ref(), format);
          REQUIRE(packed);
          const auto back = decoded(*packed);
          double squares = 0, steps = 0;
          for (int r = 0; r < w.rows(); ++r) {
            for (int c = 0; c < w.cols(); ++c) {
              const GroupParameters p{packed->panels().scale(r, c / packed->shape().group_codes()),
                                      0};
              // An affine group's range may overhang its last code by the half step that rounding
              // its zero point costs; the whole error is then one step.
              const double overhang = format.affine() ? 0.5 * p.scale : 0;
              const double error = std::abs(w(r, c) - back(r, c));
              REQUIRE(error <= rounding_bound(format, p) + overhang);
              squares += error * error, steps += static_cast<double>(p.scale) * p.scale;
            }
          }
          // A uniform quantizer's mean square error is step^2 / 12 on smooth data.
          CHECK(squares > 0.1 * steps / 12);
          CHECK(squares < 2.0 * steps / 12);
        }
      }
    }
  }
}

TEST_CASE("the typed and the run-time form hold the same codes and scales") {
  const auto w = gaussian(33, 100, 5);
  const auto typed = quantize<uint4_g64>(w.ref());
  const auto any = quantize(w.ref(), uint4_g64::value);
  REQUIRE(typed);
  REQUIRE(any);
  const auto back = decoded(*any);
  for (int r = 0; r < 33; ++r) {
    for (int c = 0; c < 100; ++c) REQUIRE(typed->view()(r, c) == back(r, c));
  }
  const auto other = quantize<uint4_g64, sequential>(w.ref());
  REQUIRE(other);
  for (int r = 0; r < 33; ++r) {
    for (int c = 0; c < 100; ++c) REQUIRE(other->view()(r, c) == back(r, c));
  }
}

TEST_CASE("padding decodes to zero") {
  const auto w = gaussian(3, 40, 6);
  for (const Zero zero : {Zero::symmetric, Zero::affine}) {
    const auto packed = quantize(w.ref(), Format{.group = 32, .zero = zero});
    REQUIRE(packed);
    const PackedPanels& p = packed->panels();
    for (int r = 0; r < p.shape.padded_rows(); ++r) {
      for (int c = r < 3 ? 40 : 0; c < p.shape.padded_cols(); ++c) {
        const int u = load_code<4, panel16>(p.codes + p.shape.tile_offset(r, c), r % 16, c % 32);
        REQUIRE(u == p.zero(r, c / 32));
      }
    }
  }
}

TEST_CASE("the number of threads does not change a packed bit") {
  const auto w = gaussian(80, 64, 7);
  ThreadPool one(1), three(3);
  const auto a = quantize(w.ref(), Format{.bits = 3}, Nearest{}, one);
  const auto b = quantize(w.ref(), Format{.bits = 3}, Nearest{}, three);
  REQUIRE(a);
  REQUIRE(b);
  CHECK(std::equal(a->panels().codes, a->panels().codes + a->shape().code_bytes(),
                   b->panels().codes));
}

TEST_CASE("weights that are not finite, or too large for the scale, are refused with their rows") {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    auto w = gaussian(40, 64, 8);
    w(37, 3) = bad;
    const auto packed = quantize(w.ref(), Format{});
    REQUIRE_FALSE(packed);
    CHECK(packed.error().code == Errc::not_finite);
    CHECK(packed.error().message.find("32 to 39") != std::string::npos);
  }
  CHECK_FALSE(quantize(MatrixRef<const float>(), Format{}));
}

TEST_CASE("a group of zeros and a group of one sign survive") {
  Matrix<float> w(1, 64);
  for (int c = 32; c < 64; ++c) w(0, c) = 5.0f + static_cast<float>(c) / 64;
  const auto packed = quantize(w.ref(), Format{.bits = 4, .group = 32, .zero = Zero::affine});
  REQUIRE(packed);
  const auto back = decoded(*packed);
  for (int c = 0; c < 32; ++c) CHECK(back(0, c) == 0);
  for (int c = 32; c < 64; ++c)
    CHECK(std::abs(back(0, c) - w(0, c)) <= 6.0 / 15);  // one step: 0 ... max in 15
}

}  // namespace
