// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/quant/clip_search.hpp>
#include <bisup/quant/nearest.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

constexpr double u = 0x1p-24;

std::vector<float> group_of(int count, std::uint64_t seed, bool outlier) {
  Random random(seed);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = static_cast<float>(random.normal());
  if (outlier) x[x.size() / 3] = random.uniform() < 0.5 ? 9.0f : -9.0f;
  return x;
}

double cost_of(const ClipSearch& q, const Format& format, const std::vector<float>& x,
               const std::vector<float>& weights, const GroupParameters& p) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::fabs(x[i] - decode(encode(format, x[i], 1.0f / p.scale, p.zero), p));
    sum +=
        q.loss == ClipLoss::power ? std::pow(d, 2.4) : d * d * (weights.empty() ? 1.0 : weights[i]);
  }
  return sum;
}

TEST_CASE("no candidate costs less than the one that was found") {
  for (const int bits : {2, 3, 4, 8}) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      for (const Grid grid : {Grid::plain, Grid::gptq}) {
        for (const ClipLoss loss : {ClipLoss::squares, ClipLoss::power}) {
          for (const bool weighted : {false, true}) {
            for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
              CAPTURE(bits, zero == Zero::affine, grid == Grid::gptq, loss == ClipLoss::power,
                      weighted, seed);
              const Format format{.bits = bits, .zero = zero};
              const ClipSearch q{.loss = loss, .grid = grid};
              const int count = seed == 4 ? 700 : 100;
              const auto x = group_of(count, seed, seed % 2 == 0);
              std::vector<float> weights;
              Random random(9);
              for (int i = 0; weighted && i < count; ++i) {
                weights.push_back(static_cast<float>(std::exp(2 * random.normal())));
              }
              std::vector<std::uint8_t> codes(x.size());
              const GroupParameters found = q.quantize(format, x, weights, codes);
              double least = 1e300;
              for (int i = 0; i < 80; ++i) {
                const float c = static_cast<float>(100 - i) / 100;
                const Clip clip = on_grid(grid, format, {.high = c, .low = c});
                least = std::min(least, cost_of(q, format, x, weights, fit(format, x, clip)));
              }
              // Two sums in floats are compared, each within the bound of
              // conformance/rounding_error: (count + 24) u of itself and 2.4 u of |value| /
              // |distance| a term, the largest value being 10 and the mean distance above a tenth
              // of the step.
              const double slip = 2.4 * 2 * 10 / (0.1 * found.scale);
              REQUIRE(cost_of(q, format, x, weights, found) <=
                      least * (1 + 2 * 1.01 * u * (count + 24 + slip)));
              for (std::size_t i = 0; i < x.size(); ++i) {
                REQUIRE(codes[i] == encode(format, x[i], 1.0f / found.scale, found.zero));
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("hand-computed clips") {
  const Format format{.bits = 2, .scale = Scale::f32};  // integers -2 ... 1
  std::vector<std::uint8_t> codes(4);
  // Unclipped the step is 2 and each 1 rounds to 0, half to even: cost 3. Step s <= 1.33 takes them
  // to s: 3 (1 - s)^2 + (2 - s)^2 is least at s = 1.25.
  const std::vector<float> x = {2, 1, 1, 1};
  const GroupParameters p = ClipSearch{}.quantize(format, x, codes);
  CHECK(p.scale == Approx(1.25).margin(0.5 * 0.02));  // candidates lie 0.02 apart
  // The 2 alone counts: nothing is clipped.
  const std::vector<float> first = {1, 0, 0, 0}, others = {0, 1, 1, 1};
  CHECK(ClipSearch{}.quantize(format, x, first, codes).scale == 2);
  // The others alone: p = 0.5 is a candidate that costs nothing.
  CHECK(ClipSearch{}.quantize(format, x, others, codes).scale == 1);
  // QuaRot's loss has no weights.
  CHECK(ClipSearch{.loss = ClipLoss::power}.quantize(format, x, first, codes) ==
        ClipSearch{.loss = ClipLoss::power}.quantize(format, x, codes));
}

TEST_CASE("the grid of GPTQ and Atom: step 2 c m / (2^b - 1)") {
  const Format format{.bits = 4, .scale = Scale::f32};
  std::vector<std::uint8_t> codes(3);
  const std::vector<float> x = {1, -1, 0.2f};
  const GroupParameters p =
      Nearest{.clip = {.high = 0.85f}, .grid = Grid::gptq}.quantize(format, x, codes);
  CHECK(double{p.scale} == Approx(2 * 0.85 / 15).epsilon(6 * u));  // six roundings
  CHECK(decode(codes[0], p) == Approx(0.793).margin(0.0005));   // bisup's table: top level 0.793 m
  CHECK(decode(codes[1], p) == Approx(-0.907).margin(0.0005));  // bottom -0.907 m
  CHECK(on_grid(Grid::gptq, {.zero = Zero::affine}, {.high = 0.5f}) == Clip{.high = 0.5f});
}

TEST_CASE("weights reach a quantizer that can use them, and only such a one") {
  const Format format{.bits = 2, .scale = Scale::f32};
  std::vector<std::uint8_t> codes(4);
  const std::vector<float> x = {2, 1, 1, 1}, others = {0, 1, 1, 1};
  CHECK(quantize_group(ClipSearch{}, format, x, others, codes).scale == 1);
  CHECK(quantize_group(Nearest{}, format, x, others, codes).scale == 2);
}

TEST_CASE("groups of zeros, and too many candidates") {
  std::vector<std::uint8_t> codes(3);
  const std::vector<float> zeros(3, 0.0f);
  for (const Zero zero : {Zero::symmetric, Zero::affine}) {
    const Format format{.zero = zero};
    const GroupParameters p = ClipSearch{}.quantize(format, zeros, codes);
    CHECK(p == fit(format, zeros));
    CHECK(decode(codes[0], p) == 0);
  }
  const std::vector<float> x = {1, 2, 3};
  CHECK(ClipSearch{.candidates = 1}.quantize(Format{}, x, codes) == fit(Format{}, x));
}

TEST_CASE("a search is a quantizer like any other, on any number of threads") {
  Matrix<float> w(40, 200);
  Random random(3);
  for (int i = 0; i < 40 * 200; ++i) w.data()[i] = static_cast<float>(random.normal());
  ThreadPool one(1), three(3);
  const auto a = quantize(w.ref(), Format{.bits = 3}, ClipSearch{}, one);
  const auto b = quantize(w.ref(), Format{.bits = 3}, ClipSearch{}, three);
  REQUIRE((a && b));
  CHECK(std::equal(a->panels().codes, a->panels().codes + a->shape().code_bytes(),
                   b->panels().codes));
}

}  // namespace
