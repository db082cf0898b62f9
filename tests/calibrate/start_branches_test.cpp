// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bisup/calibrate/start_branches.hpp>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include <bisup_test.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;

// A rounded block without branches, the float weights it was made of, and crops to learn from and
// to judge on.
struct Start {
  small::Options made{.smoothing = false, .rank = 0};
  tune::SimulatedBlock<float> block = small::block<float>(made);
  FloatBlock<float> floats;
  small::Angles<float> angles{small::prompt};
  std::vector<Matrix<float>> x;
  std::vector<tune::TuningSample<float>> samples;
  std::array<std::vector<float>, tune::inputs> power;
  ThreadPool pool{2};

  Start() {
    const auto to = floats.linears();
    for (std::size_t i = 0; i < block.linears.size(); ++i)
      to[i]->weights = block.linears[i].weights.clone();
    Random random(11);
    for (int i = 0; i < 120; ++i)
      x.push_back(small::normals<float>(small::tokens, small::shape.hidden, 1, random));
    for (const auto& one : x) samples.push_back({one.ref(), one.ref()});
    refresh(block, pool);
    const auto moments = rounded_moments<float>(block, angles.view(), samples, 1000, pool);
    for (std::size_t i = 0; i < power.size(); ++i) {
      for (int c = 0; c < moments[i].exact.cols(); ++c) power[i].push_back(moments[i].exact(c, c));
    }
  }
  [[nodiscard]] tune::SimulatedBlock<float> started(int crops, bool regression) {
    auto begun = small::block<float>(made);
    const auto done =
        start_branches<float>(begun, floats, power, angles.view(),
                              std::span(samples).first(static_cast<std::size_t>(crops)),
                              {.rank = 4, .regression = regression}, pool);
    REQUIRE(done);
    return begun;
  }
  // |W x - W^ x^ - branch(x)|^2 of each linear over crops from `first` on, inputs as the block
  // without branches gives them.
  [[nodiscard]] std::array<double, tune::linears> errors(const tune::SimulatedBlock<float>& begun,
                                                         std::size_t first, std::size_t last) {
    const auto from = floats.linears();
    std::array<double, tune::linears> sums{};
    tune::BlockActivations<float> a;
    for (std::size_t s = first; s < last; ++s) {
      tune::forward<float>(block, angles.view(), x[s].ref(), a, {}, pool);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const auto& input = a.inputs[static_cast<std::size_t>(tune::input_of[i])];
        const tune::SimulatedLinear<float>& linear = begun.linears[i];
        Matrix<float> wanted(input.before.rows(), linear.out());
        auto got = wanted.clone();
        Matrix<float> projected(input.before.rows(), linear.rank());
        multiply_transposed(input.before, from[i]->weights.ref(), wanted.ref(), Into::replace,
                            pool);
        multiply_transposed(input.values, block.linears[i].effective(), got.ref(), Into::replace,
                            pool);
        multiply_transposed(input.before, linear.a.ref(), projected.ref(), Into::replace, pool);
        multiply_transposed(std::as_const(projected).ref(), linear.b.ref(), got.ref(), Into::add,
                            pool);
        for (int t = 0; t < wanted.rows(); ++t) {
          for (int c = 0; c < wanted.cols(); ++c) sums[i] += std::pow(wanted(t, c) - got(t, c), 2);
        }
      }
    }
    return sums;
  }
};

bool same(const Matrix<float>& a, const Matrix<float>& b) {
  bool equal = a.rows() == b.rows() && a.cols() == b.cols();
  for (int r = 0; equal && r < a.rows(); ++r) {
    for (int c = 0; c < a.cols(); ++c) equal = equal && a(r, c) == b(r, c);
  }
  return equal;
}

TEST_CASE("regression takes off what rounding inputs did as well, on crops it did not see too") {
  Start start;
  const int crops = 90;  // 810 tokens for at most 32 channels
  const auto svd = start.started(crops, false), regression = start.started(crops, true);
  const auto svd_seen = start.errors(svd, 0, crops),
             regression_seen = start.errors(regression, 0, crops),
             svd_new = start.errors(svd, crops, 120),
             regression_new = start.errors(regression, crops, 120);
  double of_svd = 0, of_regression = 0;
  for (std::size_t i = 0; i < svd_seen.size(); ++i) {
    INFO(i);
    // The least there is at this rank but for 1 % of damping, which is worth less than 1 %.
    CHECK(regression_seen[i] < 1.01 * svd_seen[i]);
    of_svd += svd_new[i], of_regression += regression_new[i];
  }
  CHECK(of_regression < of_svd);
}

TEST_CASE("moments give what a regression on the residuals themselves gives") {
  Start start;
  const auto begun = start.started(90, true);
  // The output's linear reads 32 channels, so of 810 tokens 57 crops are read: 513.
  const int crops = 57;
  const MatrixRef<const float> w = start.floats.o.weights.ref(),
                               rounded = start.block.linears[tune::o_linear].effective();
  SecondMoments moments(w.cols());
  Matrix<float> cross(w.rows(), w.cols()), residual(small::tokens, w.rows());
  auto got = residual.clone();
  tune::BlockActivations<float> a;
  for (std::size_t s = 0; s < crops; ++s) {
    tune::forward<float>(start.block, start.angles.view(), start.x[s].ref(), a, {}, start.pool);
    const auto& input = a.inputs[tune::output_input];
    moments.add(input.before, start.pool);
    multiply_transposed(input.before, w, residual.ref(), Into::replace, start.pool);
    multiply_transposed(input.values, rounded, got.ref(), Into::replace, start.pool);
    for (int t = 0; t < residual.rows(); ++t) {
      for (int c = 0; c < residual.cols(); ++c)
        residual(t, c) = (residual(t, c) - got(t, c)) / (crops * small::tokens);
    }
    transposed_multiply(std::as_const(residual).ref(), input.before, cross.ref(),
                        s == 0 ? Into::replace : Into::add, start.pool);
  }
  const auto wanted =
      reduced_rank_regression(moments.mean().ref(), cross.ref(), {.rank = 4}, start.pool);
  REQUIRE(wanted);
  // The sums differ in their order alone: by some units of 2^-24 of W E[x x^T], of which the
  // residual is a tenth and its fourth singular vector another.
  Matrix<float> one(w.rows(), w.cols()), other(w.rows(), w.cols());
  multiply(wanted->b.ref(), wanted->a.ref(), one.ref(), Into::replace, start.pool);
  const auto& linear = begun.linears[tune::o_linear];
  multiply(linear.b.ref(), linear.a.ref(), other.ref(), Into::replace, start.pool);
  double difference = 0, power = 0;
  for (int r = 0; r < one.rows(); ++r) {
    for (int c = 0; c < one.cols(); ++c) {
      difference += std::pow(one(r, c) - other(r, c), 2), power += std::pow(one(r, c), 2);
    }
  }
  CHECK(std::sqrt(difference / power) < 1e-3);
}

TEST_CASE("a linear with fewer than 16 tokens for each input begins at the error of its weights") {
  Start start;
  const int crops = 45;  // 405 tokens: enough for 20 and 24 channels, not for the output's 32
  const auto svd = start.started(crops, false), regression = start.started(crops, true);
  for (std::size_t i = 0; i < svd.linears.size(); ++i) {
    INFO(i);
    CHECK(same(svd.linears[i].a, regression.linears[i].a) == (i == tune::o_linear));
    CHECK(same(svd.linears[i].b, regression.linears[i].b) == (i == tune::o_linear));
  }
}

TEST_CASE("inputs that are zero leave nothing to regress on") {
  Start start;
  for (auto& one : start.x) {
    for (int t = 0; t < one.rows(); ++t) std::ranges::fill(one.row(t), 0.0f);
  }
  const auto begun = start.started(90, true);
  for (const auto& linear : begun.linears) CHECK(linear.rank() > 0);
}

}  // namespace
