// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/tune/block_tuner.hpp>
#include <bisup/tune/soft_smoothing.hpp>
#include <vector>

#include <bisup_test.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

// The float block and a rounded one, with crops of a stream that carries an error already.
template <class T>
struct Streams {
  SimulatedBlock<T> teacher, student;
  small::Angles<T> angles{0};
  std::vector<Matrix<T>> inputs, targets, augmented;
  std::vector<TuningSample<T>> training, held_out;

  Streams()
      : teacher(
            small::block<T>({.rounded = false, .smoothing = false, .prompt = false, .rank = 0})),
        student(small::block<T>({.smoothing = false, .prompt = false})) {
    // The student's draws must be the teacher's weights.
    for (std::size_t i = 0; i < tune::linears; ++i) {
      student.linears[i].weights = teacher.linears[i].weights.clone();
      student.linears[i].bias = teacher.linears[i].bias;
      for (int r = 0; r < student.linears[i].out(); ++r) {
        for (T& b : student.linears[i].b.row(r)) b = 0;
      }
    }
    student.attention_norm = teacher.attention_norm, student.mlp_norm = teacher.mlp_norm;
    student.query_norm = teacher.query_norm, student.key_norm = teacher.key_norm;
    student.inputs = small::block<T>({.smoothing = false, .rotated = false, .rank = 0}).inputs;
    teacher.inputs = {};
    Random random(5);
    ThreadPool pool(1);
    BlockActivations<T> a;
    for (int i = 0; i < 12; ++i) {
      const auto x = small::normals<T>(small::tokens, 24, 1, random);
      auto moved = x.clone();
      for (int t = 0; t < small::tokens; ++t) {
        for (T& v : moved.row(t)) v += static_cast<T>(0.05 * random.normal());
      }
      inputs.push_back(std::move(moved));
      targets.emplace_back(small::tokens, 24), augmented.emplace_back(small::tokens, 24);
      forward<T>(teacher, angles.view(), x.ref(), a, targets.back().ref(), pool);
      forward<T>(teacher, angles.view(), inputs.back().ref(), a, augmented.back().ref(), pool);
    }
    for (std::size_t i = 0; i < 12; ++i) {
      auto& set = i < 8 ? training : held_out;
      set.push_back({std::as_const(inputs[i]).ref(), std::as_const(targets[i]).ref(),
                     std::as_const(augmented[i]).ref()});
    }
  }
};

template <class T>
std::vector<ParameterGroup<T>> all_groups(BlockTuner<T>& tuner, SimulatedBlock<T>& block) {
  std::vector<ParameterGroup<T>> groups = {
      weight_clips(block, tuner.gradient(), 1e-2), low_rank(block, tuner.gradient(), 1e-2),
      activation_clips(block, tuner.gradient(), 1e-2), cache_clips(block, tuner.gradient(), 1e-2),
      norm_gains(block, tuner.gradient(), 1e-3)};
  return groups;
}

TEST_CASE("tuning lowers the held-out loss, and what is reported is what was kept") {
  Streams<float> s;
  ThreadPool pool(2);
  BlockTuner<float> tuner(s.student, s.angles.view(), s.training, s.held_out,
                          {.phase = {.steps = 60, .evaluations = 6}}, pool);
  const double before = tuner.held_out_loss();
  const auto report = tuner.run_phase(all_groups(tuner, s.student));
  CHECK(report.before == before);
  CHECK(report.best < 0.9 * before);  // clips that cover half the extremes can only be improved
  CHECK(tuner.held_out_loss() == report.best);
  refresh(s.student, pool);  // the weights that were judged are those of the clips that are left
  CHECK(tuner.held_out_loss() == report.best);
}

TEST_CASE("a phase that learns too fast leaves the block as it was") {
  Streams<float> s;
  ThreadPool pool(1);
  BlockTuner<float> tuner(s.student, s.angles.view(), s.training, s.held_out,
                          {.phase = {.steps = 6}}, pool);
  auto groups = all_groups(tuner, s.student);
  for (auto& group : groups) group.rate = 100;
  const double before = tuner.held_out_loss();
  const auto report = tuner.run_phase(groups);
  CHECK(report.best_step == 0);
  CHECK(tuner.held_out_loss() == before);
}

TEST_CASE("the result is the same to the bit for any number of threads") {
  std::vector<float> first;
  for (const int threads : {1, 3}) {
    Streams<float> s;
    ThreadPool pool(threads);
    BlockTuner<float> tuner(s.student, s.angles.view(), s.training, s.held_out,
                            {.phase = {.steps = 5}, .loss = {.moments = 0.1}, .batch = 2}, pool);
    (void)tuner.run_phase(all_groups(tuner, s.student));
    std::vector<float> values;
    for (const auto& l : s.student.linears) {
      values.insert(values.end(), l.a.data(), l.a.data() + l.a.rows() * l.a.cols());
      values.insert(values.end(), l.clip_high.data(),
                    l.clip_high.data() + l.clip_high.rows() * l.clip_high.cols());
    }
    for (const auto& input : s.student.inputs) values.push_back(input.clip);
    if (threads == 1) first = values;
    CHECK(values == first);
  }
}

TEST_CASE("the gradient of a step is that of its loss, all terms and the batch included") {
  Streams<double> s;
  ThreadPool pool(1);
  const BlockTunerOptions options{
      .phase = {.steps = 1, .evaluations = 1, .gradient_norm = 1e9},
      .loss = {.augmented = 0.5, .moments = 0.25, .skipped = {.largest = 1}},
      .batch = 8};  // every training sample once
  // Held out are the same samples, so that held-out loss is training loss up to the powers by which
  // the terms are divided: with equal powers they are one.
  BlockTuner<double> tuner(s.student, s.angles.view(), s.training, s.training, options, pool);
  std::vector<ParameterGroup<double>> groups = {low_rank(s.student, tuner.gradient(), 0.0)};
  const auto report = tuner.run_phase(groups);
  CHECK(report.training[0] == Approx(report.before).epsilon(1e-12));
  double* const b = s.student.linears[down_linear].b.data();
  for (int i = 0; i < 6; ++i) {
    const double at = b[i], h = 1e-5;
    b[i] = at + h;
    const double up = tuner.held_out_loss();
    b[i] = at - h;
    const double down = tuner.held_out_loss();
    b[i] = at;
    // Roundings are frozen by nothing here, but b of down comes after all of them; the loss is
    // quadratic in it up to the moments: h^2 = 1e-10 of a third derivative below 100.
    CHECK(tuner.gradient().linears[down_linear].b.data()[i] ==
          Approx((up - down) / (2 * h)).epsilon(1e-6).margin(1e-8));
  }
}

TEST_CASE("smoothing is a group among others") {
  Streams<float> s;
  ThreadPool pool(1);
  BlockTuner<float> tuner(s.student, s.angles.view(), s.training, s.held_out,
                          {.phase = {.steps = 20, .evaluations = 5}}, pool);
  SoftSmoothing<float> smoothing(std::vector<float>(24, 0.0f),
                                 norm_site(s.student, tuner.gradient(), mlp_input), 0);
  std::vector<ParameterGroup<float>> groups = {smoothing.group(1e-2)};
  const auto report = tuner.run_phase(groups);
  CHECK(report.best <= report.before);
  CHECK(report.training.size() == 20);
  CHECK(std::any_of(smoothing.theta().begin(), smoothing.theta().end(),
                    [](float x) { return x != 0; }) == (report.best_step > 0));
}

}  // namespace
