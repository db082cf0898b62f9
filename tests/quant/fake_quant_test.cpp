// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/quant/fake_quant.hpp>
#include <bisup/quant/nearest.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Matrix<float> gaussian(int rows, int cols) {
  Matrix<float> x(rows, cols);
  Random random(11);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) x(r, c) = static_cast<float>(random.normal());
  }
  return x;
}

TEST_CASE("simulated weights are what the packed ones decode to, to the bit") {
  auto x = gaussian(5, 172);
  const auto packed = quantize<uint4_g64>(x.ref());
  REQUIRE(packed);
  fake_quantize_rows(x.ref(), uint4_g64::value);
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 172; ++c) REQUIRE(packed->view()(r, c) == x(r, c));
  }
}

TEST_CASE("activations: one scale a token and group, or one a token") {
  for (const bool token_scales : {false, true}) {
    for (const int group : {0, 64}) {
      const auto original = gaussian(3, 172);
      auto x = original.clone();
      fake_quantize(x.ref(),
                    {.bits = 4, .group = group, .token_scales = token_scales, .clip = 0.75f});
      for (int t = 0; t < 3; ++t) {
        const int width = token_scales || group == 0 ? 172 : group;
        for (int begin = 0; begin < 172; begin += width) {
          const int end = std::min(begin + width, 172);
          float largest = 0;
          for (int c = begin; c < end; ++c) largest = std::max(largest, std::abs(original(t, c)));
          const float step = 0.75f * largest / 7;
          bool moved = false;
          for (int c = begin; c < end; ++c) {
            // inside the clipped range half a step; 2^-22: rounding of the scale and of the product
            const float inside = std::min(std::max(original(t, c), -8 * step), 7 * step);
            REQUIRE(std::abs(x(t, c) - inside) <= 0.5f * step + 8 * step * 0x1p-22f);
            moved = moved || x(t, c) != original(t, c);
          }
          CHECK(moved);
        }
      }
    }
  }
}

TEST_CASE("rounding twice changes nothing more") {
  auto x = gaussian(4, 96);
  const Format format{.bits = 3, .group = 32, .scale = Scale::f32};
  fake_quantize_rows(x.ref(), format);
  auto again = x.clone();
  fake_quantize_rows(again.ref(), format);
  for (int r = 0; r < 4; ++r) {
    // The largest value is a level, so the step is found again up to its own rounding, 2^-23.
    for (int c = 0; c < 96; ++c) CHECK(again(r, c) == Approx(x(r, c)).epsilon(0x1p-21));
  }
}

}  // namespace
