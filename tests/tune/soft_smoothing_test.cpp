// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/soft_smoothing.hpp>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

// A block without smoothing of its own, and sum of weights times its output.
struct SmoothingProblem {
  SimulatedBlock<double> block;
  BlockGradient<double> gradient;
  small::Angles<double> angles{0};
  Matrix<double> x, weights;
  BlockActivations<double> activations;
  ThreadPool pool{1};

  explicit SmoothingProblem(bool rounded, bool rotated, int rank)
      : block(small::block<double>({.rounded = rounded,
                                    .norms = false,
                                    .smoothing = false,
                                    .rotated = rotated,
                                    .prompt = false,
                                    .rank = rank})) {
    gradient.clear(block);
    Random random(77);
    x = small::normals<double>(small::tokens, 24, 1, random);
    weights = small::normals<double>(small::tokens, 24, 1, random);
    // Norm sites need an input that is not rotated; the others may have a gather.
    if (!rotated) {
      for (const int i : {0, 1, 2, 3}) {
        auto& order = block.inputs[static_cast<std::size_t>(i)].order;
        order.resize(gradient.factors[static_cast<std::size_t>(i)].size());
        const auto n = static_cast<int>(order.size());
        for (int j = 0; j < n; ++j) order[static_cast<std::size_t>(j)] = (7 * j + 2) % n;
      }
    }
  }
  double value() { return small::weighted_output(block, angles, x, weights, activations, pool); }
  void learn() {
    gradient.clear(block);
    Matrix<double> g = weights.clone();
    BlockScratch<double> scratch;
    backward<double>(block, angles.view(), activations, g.ref(),
                     {.weight_clips = true, .smoothing = true}, gradient, scratch, pool);
  }
};

using Uses = std::vector<SmoothingUse<double>>;
struct Site {
  std::string name;
  bool rotated;
  std::size_t channels;
  std::function<Uses(SmoothingProblem&)> uses;
};
const std::vector<Site> sites = {
    {"attention norm", false, 24,
     [](SmoothingProblem& p) { return norm_site(p.block, p.gradient, attention_input); }},
    {"mlp norm", false, 24,
     [](SmoothingProblem& p) { return norm_site(p.block, p.gradient, mlp_input); }},
    {"values", false, 16, [](SmoothingProblem& p) { return value_site(p.block, p.gradient); }},
    {"up", false, 20, [](SmoothingProblem& p) { return up_site(p.block, p.gradient); }},
    {"keys", false, 8, [](SmoothingProblem& p) { return key_site(p.block, p.gradient); }},
    {"output input", true, 32,
     [](SmoothingProblem& p) { return input_site(p.block, p.gradient, output_input); }},
    {"down input", true, 20,
     [](SmoothingProblem& p) { return input_site(p.block, p.gradient, down_input); }}};

std::vector<double> some_prior(std::size_t n) {
  Random random(9);
  std::vector<double> prior(n);
  for (double& p : prior) p = 0.5 * random.normal();
  return prior;
}

TEST_CASE("every site changes nothing before rounding") {
  for (const Site& site : sites) {
    CAPTURE(site.name);
    SmoothingProblem p(false, site.rotated, 0);
    const double before = p.value();
    SoftSmoothing<double> smoothing(some_prior(site.channels), site.uses(p), 1);
    for (double& theta : smoothing.theta()) theta = 0.4;
    smoothing.spread();
    // Sums of at most 32 terms, seven products deep.
    CHECK(p.value() == Approx(before).epsilon(1e-12));
  }
}

TEST_CASE("one wrong side of a site changes the block") {
  for (const Site& site : sites) {
    CAPTURE(site.name);
    SmoothingProblem p(false, site.rotated, 0);
    const double before = p.value();
    Uses uses = site.uses(p);
    uses[0].exponent = -uses[0].exponent;
    const SoftSmoothing<double> smoothing(some_prior(site.channels), std::move(uses), 1);
    CHECK(std::fabs(p.value() - before) > 1e-3 * std::fabs(before));
  }
}

TEST_CASE("gradients of theta and eta follow all uses, the bound and the penalty") {
  for (const Site& site : sites) {
    CAPTURE(site.name);
    SmoothingProblem p(true, site.rotated, 0);
    SoftSmoothing<double> smoothing(some_prior(site.channels), site.uses(p), 0.7);
    Random random(3);
    for (double& theta : smoothing.theta()) theta = random.normal();
    smoothing.spread();
    RoundingTape tape;
    const auto value = [&] {
      smoothing.spread();
      double squares = 0;
      for (const double theta : smoothing.theta()) squares += theta * theta;
      return p.value() + 1e-3 * squares / static_cast<double>(site.channels);
    };
    difference::recorded(tape, value);
    p.learn();
    const auto group = smoothing.group(1);
    double squares = 0;
    for (const double theta : smoothing.theta()) squares += theta * theta;
    CHECK(group.gather() ==
          Approx(1e-3 * squares / static_cast<double>(site.channels)).epsilon(1e-12));
    for (const auto& view : group.views) {
      for (std::size_t i = 0; i < view.values.size(); ++i) {
        const double expected = difference::derivative(tape, view.values[i], value);
        CAPTURE(i, view.gradients[i], expected);
        REQUIRE(difference::close(view.gradients[i], expected, 1));
      }
    }
  }
}

TEST_CASE("s stays within a factor of two of the prior, and keepers stay at one") {
  std::vector<double> factor, gradient(6);
  SoftSmoothing<double> smoothing({0.1, -0.3, 0.5, 0, 1, 2},
                                  {{&factor, &gradient, {0, 1, 2, 3, 4, 5}, 1}}, 0.5, 2);
  for (double& theta : smoothing.theta()) theta = 1e9;
  smoothing.spread();
  CHECK(factor[0] == Approx(2 * std::exp(0.05)));
  CHECK(factor[1] == Approx(2 * std::exp(-0.15)));
  CHECK(factor[4] == 1);
  CHECK(factor[5] == 1);
  gradient.assign(6, 1.0);
  const auto group = smoothing.group(1);
  (void)group.gather();
  CHECK(group.views[0].gradients[4] == 0);
}

}  // namespace
