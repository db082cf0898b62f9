// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/block_gradient.hpp>
#include <functional>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

constexpr Wanted everything{.weight_clips = true,
                            .smoothing = true,
                            .low_rank = true,
                            .activation_clips = true,
                            .cache_clips = true,
                            .norm_gains = true,
                            .input = true};

// sum of weights times the block's output.
struct BlockProblem {
  SimulatedBlock<double> block;
  small::Angles<double> angles;
  Matrix<double> x, weights;
  BlockActivations<double> activations;
  BlockGradient<double> gradient;
  Matrix<double> dx;
  RoundingTape tape;
  ThreadPool pool{1};  // the tape needs one order of roundings

  explicit BlockProblem(SimulatedBlock<double> b)
      : block(std::move(b)), angles(block.cache.prompt()) {
    Random random(77);
    x = small::normals<double>(small::tokens, 24, 1, random);
    weights = small::normals<double>(small::tokens, 24, 1, random);
    difference::recorded(tape, [&] { return value(); });
    dx = weights.clone();
    gradient.clear(block);
    BlockScratch<double> scratch;
    backward<double>(block, angles.view(), activations, dx.ref(), everything, gradient, scratch,
                     pool);
  }
  double value() { return small::weighted_output(block, angles, x, weights, activations, pool); }
  void check(const std::string& what, double& parameter, double gradient_value, double factor = 1) {
    const double expected =
        factor * difference::derivative(tape, parameter, [&] { return value(); });
    CAPTURE(what, gradient_value, expected);
    REQUIRE(difference::close(gradient_value, expected, 1));
  }
  void check(const std::string& what, Matrix<double>& parameters, const Matrix<double>& gradients) {
    for (int r = 0; r < parameters.rows(); r += 3) {
      for (int c = r % 2; c < parameters.cols(); c += 2) {
        check(what, parameters(r, c), gradients(r, c));
      }
    }
  }
  void check(const std::string& what, std::vector<double>& parameters,
             const std::vector<double>& gradients, bool logarithm = false) {
    for (std::size_t i = 0; i < parameters.size(); i += 2) {
      check(what, parameters[i], gradients[i], logarithm ? parameters[i] : 1);
    }
  }
  void check_all() {
    for (std::size_t i = 0; i < tune::linears; ++i) {
      auto& linear = block.linears[i];
      auto& d = gradient.linears[i];
      const std::string name = "linear " + std::to_string(i);
      check(name + " clip", linear.clip_high, d.clip_high);
      check(name + " low clip", linear.clip_low, d.clip_low);
      check(name + " a", linear.a, d.a), check(name + " b", linear.b, d.b);
      check(name + " rows", linear.row_factor, d.rows, true);
      check(name + " columns", linear.column_factor, d.columns, true);
    }
    for (std::size_t i = 0; i < tune::inputs; ++i) {
      const std::string name = "input " + std::to_string(i);
      if (block.inputs[i].rounding) check(name, block.inputs[i].clip, gradient.clips[i]);
      check(name + " factor", block.inputs[i].factor, gradient.factors[i], true);
    }
    check("attention norm", block.attention_norm.weight, gradient.attention_norm);
    check("mlp norm", block.mlp_norm.weight, gradient.mlp_norm);
    check("query norm", block.query_norm.weight, gradient.query_norm);
    check("key norm", block.key_norm.weight, gradient.key_norm);
    check("norm factor", block.attention_norm.factor, gradient.attention_norm_factor, true);
    check("mlp norm factor", block.mlp_norm.factor, gradient.mlp_norm_factor, true);
    if (!block.cache.keys.exact()) {
      check("key high", block.cache.key_high, gradient.key_high);
      check("key low", block.cache.key_low, gradient.key_low);
      check("value high", block.cache.value_high, gradient.value_high);
      check("value low", block.cache.value_low, gradient.value_low);
    }
    check("x", x, dx);
  }
};

TEST_CASE("the float block's gradients are those of finite differences") {
  BlockProblem(small::block<double>({.rounded = false, .smoothing = false, .rank = 0})).check_all();
}
TEST_CASE("so are those of a rounded block with branches, smoothing, rotations and a prompt") {
  BlockProblem(small::block<double>({})).check_all();
}
TEST_CASE("and of ones whose branches are merged into the weights before they are rounded") {
  for (const bool rounded : {true, false})
    BlockProblem(small::block<double>({.rounded = rounded, .merged = true})).check_all();
}
TEST_CASE("and of one with affine weights whose branches read the rounded input") {
  BlockProblem(small::block<double>({.norms = false,
                                     .smoothing = false,
                                     .rotated = false,
                                     .branch_reads_rounded = true,
                                     .affine_weights = true,
                                     .prompt = false}))
      .check_all();
}
TEST_CASE("and of one whose weights are codes already, with an exact recent window") {
  for (const bool prompt : {false, true}) {
    BlockProblem(small::block<double>(
                     {.frozen_weights = true, .smoothing = false, .prompt = prompt, .recent = 3}))
        .check_all();
  }
}

}  // namespace
