// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/quant/fake_quant.hpp>
#include <bisup/tune/straight_through.hpp>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

const std::vector<RowRounding> roundings = {
    {.format = {.bits = 3, .group = 32, .scale = Scale::f32}},
    {.format = {.bits = 4, .group = 64, .scale = Scale::f16}},
    {.format = {.bits = 2, .group = 0, .scale = Scale::f16}},
    {.format = {.bits = 8, .group = 32, .scale = Scale::f32}},
    {.format = {.bits = 3, .group = 32, .zero = Zero::affine, .scale = Scale::f16}},
    {.format = {.bits = 4, .group = 0, .zero = Zero::affine, .scale = Scale::f32}},
    {.format = {.bits = 3, .group = 32, .scale = Scale::f16}, .keepers = 16},
    {.format = {.bits = 4, .group = 32, .scale = Scale::f32}, .keepers = 11},
};

TEST_CASE("in float a row is rounded as bisup rounds it, to the bit") {
  Random random(5);
  for (const RowRounding& rounding : roundings) {
    for (const float clip : {1.0f, 0.75f}) {
      CAPTURE(rounding.format.bits, rounding.keepers, clip);
      Matrix<float> x(7, 107);
      for (int r = 0; r < 7; ++r) {
        for (float& v : x.row(r)) v = static_cast<float>(random.normal() * (r == 3 ? 1e-7 : 1));
      }
      Matrix<float> y(7, 107), expected = x.clone();
      const std::vector<float> shares = {clip};
      for (int r = 0; r < 7; ++r) round_row<float>(rounding, {shares, shares}, x.row(r), y.row(r));
      const int end = 107 - rounding.keepers;
      fake_quantize_rows(expected.ref().cols(0, end), rounding.format,
                         Nearest{.clip = {.high = clip, .low = clip}});
      if (rounding.keepers > 0) {
        fake_quantize_rows(expected.ref().cols(end, rounding.keepers), rounding.keeper_format());
      }
      for (int r = 0; r < 7; ++r) {
        for (int c = 0; c < 107; ++c) REQUIRE(y(r, c) == expected(r, c));
      }
    }
  }
}

TEST_CASE("a scale in f16 is used as it is stored, and a NaN stays inside its own group") {
  const RowRounding rounding{.format = {.bits = 4, .group = 32}};
  std::vector<float> x(64, 1.0f), y(64);
  x[40] = NAN;
  const std::vector<float> one = {1.0f};
  round_row<float>(rounding, {one}, x, y);
  CHECK(y[0] == 7 * rounded_to(Scale::f16, 1.0f / 7));
  CHECK(y[40] == -8 * rounded_to(Scale::f16, 1.0f / 7));  // the lowest code
}

// sum of weights times the rounded row.
struct RoundingProblem {
  RowRounding rounding;
  Matrix<double> x, weights;
  std::vector<double> high, low;

  RoundingProblem(const RowRounding& how, double deviation)
      : rounding(how),
        x(difference::normals(1, 107, deviation, 3)),
        weights(difference::normals(1, 107, 1, 4)) {
    Random random(8);
    for (int g = 0; g < how.groups(107); ++g) {
      high.push_back(0.5 + 0.4 * random.uniform()), low.push_back(0.5 + 0.4 * random.uniform());
    }
  }
  double value() const {
    std::vector<double> y(107);
    round_row<double>(rounding, {high, low}, x.row(0), y);
    double sum = 0;
    for (int i = 0; i < 107; ++i) sum += weights(0, i) * y[static_cast<std::size_t>(i)];
    return sum;
  }
};

TEST_CASE("gradients are those of the function whose rounding residuals are frozen") {
  int held = 0;
  for (const RowRounding& rounding : roundings) {
    CAPTURE(rounding.format.bits, rounding.format.affine(), rounding.keepers);
    RoundingProblem p(rounding, 1);
    RoundingTape tape;
    const double recorded = difference::recorded(tape, [&] { return p.value(); });
    CHECK(recorded == Approx(p.value()).epsilon(1e-13));  // frozen, the function has the same value
    std::vector<double> dx(107), dhigh(p.high.size()), dlow(p.low.size());
    round_row_gradient<double>(rounding, {p.high, p.low}, p.x.row(0), p.weights.row(0), dx,
                               {dhigh, dlow});
    const auto value = [&] { return p.value(); };
    for (int i = 0; i < 107; ++i) {
      const double expected = difference::derivative(tape, p.x(0, i), value);
      REQUIRE(difference::close(dx[static_cast<std::size_t>(i)], expected, 1));
      held += expected == 0 ? 1 : 0;
    }
    for (std::size_t g = 0; g < p.high.size(); ++g) {
      REQUIRE(difference::close(dhigh[g], difference::derivative(tape, p.high[g], value), 1));
      if (!rounding.format.affine()) continue;
      REQUIRE(difference::close(dlow[g], difference::derivative(tape, p.low[g], value), 1));
    }
  }
  CHECK(held > 10);  // some lay outside: the bounds were tested too
}

TEST_CASE("one clip for all groups gathers the gradients of all") {
  RoundingProblem p(roundings[0], 1);
  p.high.assign(1, 0.7), p.low.assign(1, 0.7);
  RoundingTape tape;
  difference::recorded(tape, [&] { return p.value(); });
  std::vector<double> dx(107), dhigh(1), dlow(1);
  round_row_gradient<double>(p.rounding, {p.high, p.low}, p.x.row(0), p.weights.row(0), dx,
                             {dhigh, dlow});
  const double expected = difference::derivative(tape, p.high[0], [&] { return p.value(); });
  CHECK(difference::close(dhigh[0], expected, 1));
}

TEST_CASE("a range on its floor is moved by nothing, a held one not by its extremes") {
  RoundingProblem small(roundings[0], 1e-7);
  std::vector<double> dx(107), dhigh(small.high.size()), dlow(dhigh);
  round_row_gradient<double>(small.rounding, {small.high, small.low}, small.x.row(0),
                             small.weights.row(0), dx, {dhigh, dlow});
  for (const double d : dhigh) CHECK(d == 0);
  for (int i = 0; i < 107; ++i) {
    CHECK(dx[static_cast<std::size_t>(i)] == small.weights(0, i));  // all inside
  }

  for (const std::size_t which : {std::size_t{0}, std::size_t{4}}) {
    RoundingProblem p(roundings[which], 1);
    p.rounding.through_range = false;
    round_row_gradient<double>(p.rounding, {p.high, p.low}, p.x.row(0), p.weights.row(0), dx,
                               {dhigh, dlow});
    for (int i = 0; i < 107; ++i) {
      const double d = dx[static_cast<std::size_t>(i)];
      CHECK((d == 0 || d == p.weights(0, i)));
    }
  }
}

TEST_CASE("of two equal extremes the first is the one that moves") {
  const RowRounding rounding{.format = {.bits = 3, .group = 32, .scale = Scale::f32}};
  std::vector<double> x(32, 0.1), g(32, 0.0), dx(32), share = {0.5}, dshare(1);
  x[5] = -2, x[9] = 2, g[0] = 1;
  round_row_gradient<double>(rounding, {share}, x, g, dx, {dshare});
  CHECK(dx[5] != 0);
  CHECK(dx[9] == 0);
}

}  // namespace
