// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/tune/biases.hpp>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/weight_scales.hpp>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

// A block whose weights count as codes in groups of 8, the last 4 columns as keepers.
template <class T>
SimulatedBlock<T> coded(int group = 8) {
  auto block = small::block<T>({.frozen_weights = true});
  for (auto& l : block.linears)
    l.codes = RowRounding{.format = {.bits = 4, .group = group}, .keepers = 4};
  begin_scales(block);
  return block;
}

// sum of weights times the block's output.
struct ScaleProblem {
  SimulatedBlock<double> block;
  small::Angles<double> angles{small::prompt};
  Matrix<double> x, weights;
  BlockActivations<double> activations;
  BlockGradient<double> gradient;
  RoundingTape tape;
  ThreadPool pool{1};  // the tape needs one order of roundings

  explicit ScaleProblem(int group) : block(coded<double>(group)) {
    Random random(7);
    x = small::normals<double>(small::tokens, 24, 1, random);
    weights = small::normals<double>(small::tokens, 24, 1, random);
    gradient.clear(block);
  }
  double value() { return small::weighted_output(block, angles, x, weights, activations, pool); }
};

TEST_CASE("the gradients of the scales are those of finite differences") {
  for (const int group : {8, 0}) {
    ScaleProblem p(group);
    difference::recorded(p.tape, [&] { return p.value(); });
    auto g = p.weights.clone();
    BlockScratch<double> scratch;
    backward<double>(p.block, p.angles.view(), p.activations, g.ref(), {.weight_scales = true},
                     p.gradient, scratch, p.pool);
    const auto scales = weight_scales(p.block, p.gradient, 1, p.pool);
    CHECK(scales.size() > 0);
    for (std::size_t i = 0; i < tune::linears; ++i) {
      auto& l = p.block.linears[i];
      CHECK(l.log_scale.cols() == (group == 0 ? 1 : (l.in() - 4 + 7) / 8));
      for (int r = 0; r < l.out(); r += 3) {
        for (int c = 0; c < l.log_scale.cols(); ++c) {
          const double expected = difference::derivative(p.tape, l.log_scale(r, c), [&] {
            scales.spread();
            return p.value();
          });
          scales.spread();
          CAPTURE(i, r, c);
          CHECK(difference::close(p.gradient.linears[i].log_scale(r, c), expected, 1));
        }
      }
    }
  }
}

TEST_CASE("a step multiplies the group that it is of, and keepers never") {
  ThreadPool pool(2);
  auto block = coded<double>();
  BlockGradient<double> gradient;
  gradient.clear(block);
  auto& down = block.linears[down_linear];  // 20 columns: two groups of 8, four keepers
  const auto before = down.weights.clone();
  const auto scales = weight_scales(block, gradient, 1, pool);
  down.log_scale(3, 1) = std::log(2.0);
  scales.spread(), scales.spread();  // the second changes nothing
  for (int r = 0; r < down.out(); ++r) {
    for (int c = 0; c < 20; ++c) {
      const double factor = r == 3 && c >= 8 && c < 16 ? 2 : 1;
      CHECK(std::fabs(down.weights(r, c) - factor * before(r, c)) <=
            1e-15 * std::fabs(before(r, c)) * 2);
    }
  }
  down.log_scale(3, 1) = 0;
  scales.spread();
  CHECK(std::fabs(down.weights(3, 9) - before(3, 9)) <= 1e-15 * std::fabs(before(3, 9)));
}

TEST_CASE("what overflowed comes back from the codes, to the bit") {
  ThreadPool pool(2);
  auto block = coded<float>();
  auto& up = block.linears[up_linear];
  const auto before = up.weights.clone();
  up.stored = [&](MatrixRef<float> weights, ThreadPool&) {
    for (int r = 0; r < before.rows(); ++r)
      std::ranges::copy(before.row(r), weights.row(r).begin());
  };
  BlockGradient<float> gradient;
  gradient.clear(block);
  const auto scales = weight_scales(block, gradient, 1, pool);
  const auto same = [&] {
    for (int r = 0; r < before.rows(); ++r) {
      if (!std::ranges::equal(before.row(r), std::as_const(up.weights).row(r))) return false;
    }
    return true;
  };
  up.log_scale(2, 0) = 200, up.log_scale(3, 1) = -200;  // infinite, and nothing
  scales.spread();
  up.log_scale(2, 0) = up.log_scale(3, 1) = 0;
  scales.spread();
  CHECK_FALSE(same());
  scales.renew();
  CHECK(same());
  up.log_scale(2, 0) = 0.5f;
  scales.renew(), scales.renew();
  CHECK(up.weights(2, 1) == before(2, 1) * std::exp(0.5f));
}

TEST_CASE("rates of scales, branches and biases are in steps of the finest grid") {
  ThreadPool pool(1);
  auto block = coded<float>();
  BlockGradient<float> gradient;
  gradient.clear(block);
  const auto check = [&](double step) {
    CHECK(grid_step(block) == step);
    CHECK(weight_scales(block, gradient, 0.5, pool).rate == 0.5 * step);
    CHECK(low_rank(block, gradient, 0.5).rate == 0.5 * step);
    CHECK(biases(block, gradient, 0.5).rate == 0.5 * step);
    CHECK(norm_gains(block, gradient, 0.5).rate == 0.5);
  };
  check(1.0 / 8);  // the largest code of 4 bits
  block.linears[up_linear].codes->format.bits = 6;
  check(1.0 / 32);
  block.linears[down_linear].codes.reset();
  block.linears[down_linear].rounding = RowRounding{.format = {.bits = 8}};
  check(1.0 / 128);
  for (auto& linear : block.linears) linear.codes.reset(), linear.rounding.reset();
  for (auto& input : block.inputs) input.rounding.reset();
  check(1);
  block.inputs[attention_input].rounding = RowRounding{.format = {.bits = 5}};
  check(1.0 / 16);
}

TEST_CASE("weights that are no codes have no scales to learn") {
  ThreadPool pool(1);
  auto block = small::block<float>({});
  begin_scales(block);
  BlockGradient<float> gradient;
  gradient.clear(block);
  CHECK(weight_scales(block, gradient, 1, pool).size() == 0);
}

// Weights that were all rounded 10 % too small learn to be larger.
TEST_CASE("learned scales find the size that the weights should have") {
  ThreadPool pool(2);
  auto teacher = coded<float>();
  for (auto& l : teacher.linears) l.a = {}, l.b = {};
  for (auto& input : teacher.inputs) input.rounding.reset();
  teacher.cache.keys = teacher.cache.values = {};
  refresh(teacher, pool);
  const small::Angles<float> angles(small::prompt);
  const small::Lesson lesson(teacher, angles, pool);
  auto& student = teacher;
  for (auto& l : student.linears) {
    for (int r = 0; r < l.out(); ++r) {
      for (float& w : l.weights.row(r).first(static_cast<std::size_t>(l.in() - 4))) w *= 0.9f;
    }
  }
  BlockTuner<float> tuner(student, angles.view(), lesson.training(), lesson.held_out(),
                          {.phase = {.steps = 150}}, pool);
  std::vector<ParameterGroup<float>> groups = {
      weight_scales(student, tuner.gradient(), 4e-2, pool)};
  const auto report = tuner.run_phase(groups);
  CHECK(report.best < 0.25 * report.before);
  CHECK(tuner.held_out_loss() == report.best);
}

}  // namespace
