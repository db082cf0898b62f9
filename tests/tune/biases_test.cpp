// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/tune/biases.hpp>
#include <bisup/tune/block_tuner.hpp>
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

TEST_CASE("the gradients of the biases are those of finite differences") {
  // Rounded weights with smoothing; codes with neither.
  for (const bool frozen : {false, true}) {
    auto block = small::block<double>({.frozen_weights = frozen, .smoothing = !frozen});
    begin_biases(block);
    Random random(11);  // with which no group finds another extreme on the way
    for (auto& l : block.linears) l.shift = small::around<double>(l.out(), 0, 0.1, random);
    const small::Angles<double> angles{small::prompt};
    const auto x = small::normals<double>(small::tokens, 24, 1, random);
    const auto weights = small::normals<double>(small::tokens, 24, 1, random);
    BlockActivations<double> activations;
    BlockGradient<double> gradient;
    RoundingTape tape;
    ThreadPool pool(1);  // the tape needs one order of roundings
    gradient.clear(block);
    refresh(block, pool);
    const auto value = [&] {
      return small::weighted_output(block, angles, x, weights, activations, pool);
    };
    difference::recorded(tape, value);
    auto g = weights.clone();
    BlockScratch<double> scratch;
    backward<double>(block, angles.view(), activations, g.ref(), {.biases = true}, gradient,
                     scratch, pool);
    std::size_t count = 0;
    for (std::size_t i = 0; i < tune::linears; ++i) {
      auto& l = block.linears[i];
      for (std::size_t r = 0; r < l.shift.size(); ++r, ++count) {
        const double expected = difference::derivative(tape, l.shift[r], value);
        CAPTURE(frozen, i, r, expected, gradient.linears[i].shift[r]);
        CHECK(difference::close(gradient.linears[i].shift[r], expected, 1));
      }
    }
    CHECK(biases(block, gradient, 1.0).size() == count);
  }
}

TEST_CASE("learned biases begin as those that are there, or as none") {
  ThreadPool pool(2);
  auto block = small::block<float>({});
  block.linears[up_linear].bias.clear();
  refresh(block, pool);
  Random random(3);
  const auto x = small::normals<float>(small::tokens, 24, 1, random);
  const small::Angles<float> angles(small::prompt);
  const auto output = [&] {
    BlockActivations<float> activations;
    Matrix<float> y(small::tokens, 24);
    forward<float>(block, angles.view(), x.ref(), activations, y.ref(), pool);
    return std::vector<float>(y.data(), y.data() + y.rows() * y.cols());
  };
  const auto before = output();
  begin_biases(block);
  CHECK(output() == before);
  CHECK(block.linears[up_linear].effective_bias() == std::vector<float>(20, 0.0f));
}

TEST_CASE("a bias moves in norms of its row") {
  auto block = small::block<double>({.smoothing = false});
  auto& up = block.linears[up_linear];
  begin_biases(block);
  up.shift[3] = 0.5;
  double squares = 0;
  for (const double w : up.weights.row(3)) squares += w * w;
  CHECK(up.effective_bias()[3] == Approx(up.bias[3] + 0.5 * std::sqrt(squares)).epsilon(1e-12));
  CHECK(up.effective_bias()[4] == up.bias[4]);
}

// The student's linears lost their biases.
TEST_CASE("learned biases find the constants that outputs miss") {
  ThreadPool pool(2);
  auto student = small::block<float>({.rounded = false, .smoothing = false, .rank = 0});
  const small::Angles<float> angles(small::prompt);
  const small::Lesson lesson(student, angles, pool);
  for (auto& l : student.linears) l.bias.clear();
  begin_biases(student);
  BlockTuner<float> tuner(student, angles.view(), lesson.training(), lesson.held_out(),
                          {.phase = {.steps = 150}}, pool);
  std::vector<ParameterGroup<float>> groups = {biases(student, tuner.gradient(), 1e-2)};
  const auto report = tuner.run_phase(groups);
  CHECK(report.best < 0.1 * report.before);
  CHECK(tuner.held_out_loss() == report.best);
}

}  // namespace
